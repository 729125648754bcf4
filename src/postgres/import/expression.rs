//! Expressions of PostgreSQL as SQLite's, where they mean the same. All others are refused with a reason.

use rusqlite::types::Value;

use super::kind::{Kind, TypeName};
use super::model::{Cursor, split};
use super::sql::{Token, shown};
use super::values::value;
use crate::connection::sql_text::string;
use crate::runtime::hex::hex;

/// What an expression may name.
pub(super) struct Scope<'s> {
    /// The kind of a column and its SQL, by the name before its dot and its own.
    pub(super) column: &'s Columns<'s>,
    /// The kind of a type, through domains and enums.
    pub(super) kind: &'s dyn Fn(&TypeName) -> Kind,
    pub(super) place: Place,
    /// Translates a query inside an expression. Only views have them. `false` if its rows alone count, not its values.
    pub(super) query: Option<&'s Query<'s>>,
}

pub(super) type Columns<'c> = dyn Fn(Option<&str>, &str) -> Option<(Kind, String)> + 'c;

/// A query inside an expression, and the kinds of its columns if they are values of the expression.
pub(super) type Query<'q> = dyn Fn(&[Token], bool) -> Result<(String, Vec<Kind>), String> + 'q;

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A check, an index or a generated column.
    Rule,
    /// A DEFAULT. It alone may ask for the time and for random numbers.
    Default,
    /// What chooses the rows of a view.
    Condition,
    /// What a view shows, or groups or sorts by.
    Value,
}

impl Place {
    fn is_of_view(self) -> bool {
        matches!(self, Self::Condition | Self::Value)
    }
}

/// The words that mean the same.
const WORDS: &[&str] = &[
    "and", "or", "not", "is", "null", "true", "false", "in", "between", "case", "when", "then", "else", "end",
    "distinct", "from",
];

const COMPARISONS: &[&str] = &["=", "<>", "!=", "<", ">", "<=", ">="];

const OPERATORS: &[&str] = &["+", "-", "*", "/", "=", "<>", "!=", "<", ">", "<=", ">=", "||"];

/// Functions that mean the same, on text of ASCII at least: PostgreSQL's name, SQLite's.
const FUNCTIONS: &[(&str, &str)] = &[
    ("abs", "abs"),
    ("btrim", "trim"),
    ("char_length", "length"),
    ("character_length", "length"),
    ("coalesce", "coalesce"),
    ("length", "length"),
    ("lower", "lower"),
    ("ltrim", "ltrim"),
    ("nullif", "nullif"),
    ("replace", "replace"),
    ("rtrim", "rtrim"),
    ("substr", "substr"),
    ("substring", "substr"),
    ("upper", "upper"),
];

/// The time now, as `Kind::TimestampTz` is kept. SQLite has milliseconds.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')";

/// A UUID of version 4.
const RANDOM_UUID: &str = "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' || \
                           substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))";

/// Of these, those that mean the same on all text.
const OF_ASCII: &[&str] = &["lower", "upper", "substr", "substring"];

/// Functions over the rows of a view.
const AGGREGATES: &[&str] = &[
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "every",
    "max",
    "min",
    "string_agg",
    "sum",
];

/// Translates an expression.
pub(super) fn translate(tokens: &[Token], scope: &Scope<'_>) -> Result<String, String> {
    Ok(translate_with_kinds(tokens, scope)?.0)
}

/// Translates an expression, and gives the kinds of what its value is made from.
pub(super) fn translate_with_kinds(tokens: &[Token], scope: &Scope<'_>) -> Result<(String, Vec<Kind>), String> {
    let translation = Translation {
        scope,
        tokens,
        at: 0,
        kinds: Vec::new(),
        compares: false,
        is_condition: false,
        in_when: false,
    };
    translation.run()
}

/// Whether SQLite tells two values of a kind apart where PostgreSQL does, and sorts them alike.
pub(super) fn is_comparable(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Numeric | Kind::NumericExact | Kind::Interval | Kind::Json | Kind::Array(_) | Kind::AsText
    )
}

const COMPUTED: &str = "numeric has more digits than SQLite computes with";

/// A DEFAULT that is one literal, for a column of a kind.
pub(super) fn literal(tokens: &[Token], kind: &Kind) -> Option<String> {
    let mut tokens = tokens;
    while let [Token::Mark('('), inner @ .., Token::Mark(')')] = tokens {
        tokens = inner;
    }
    let (text, rest) = match tokens {
        [Token::Operator(minus), Token::Number(number), rest @ ..] if minus == "-" => (format!("-{number}"), rest),
        [Token::Text(text) | Token::Number(text), rest @ ..] => (text.clone(), rest),
        [Token::Word(word), rest @ ..] if ["true", "false", "null"].contains(&word.as_str()) => (word.clone(), rest),
        _ => return None,
    };
    let is_null = tokens.first().is_some_and(|token| token.is_word("null"));
    match rest {
        [] => {}
        [cast, name @ ..] if cast.is_operator("::") && TypeName::read(name)?.1 == name.len() => {}
        _ => return None,
    }
    match is_null {
        true => Some("NULL".into()),
        false => as_sql(&value(kind, text.as_bytes()).ok()?),
    }
}

fn as_sql(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => "NULL".into(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) if number.is_finite() => format!("{number:?}"),
        Value::Real(_) => return None,
        Value::Text(text) => string(text),
        Value::Blob(bytes) => {
            format!("x'{}'", hex(bytes))
        }
    })
}

struct Translation<'t, 's> {
    scope: &'s Scope<'s>,
    tokens: &'t [Token],
    at: usize,
    /// The kinds of the operands.
    kinds: Vec<Kind>,
    /// Whether operands are compared.
    compares: bool,
    /// Whether the value is a boolean.
    is_condition: bool,
    /// Between WHEN and THEN, whose operands are no part of the value.
    in_when: bool,
}

impl Translation<'_, '_> {
    fn run(mut self) -> Result<(String, Vec<Kind>), String> {
        let mut parts = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            let part = self.part(token)?;
            parts.push(part);
        }
        let is_time = |kind: &&Kind| matches!(kind, Kind::Date | Kind::Timestamp | Kind::TimestampTz | Kind::Time);
        let mut times = self.kinds.iter().filter(is_time);
        if let Some(first) = times.next()
            && self.compares
            && times.any(|other| other != first)
        {
            return Err("dates and times of two types are compared, whose text differs".into());
        }
        if self.is_condition {
            self.kinds = vec![Kind::Bool];
        }
        Ok((parts.join(" "), self.kinds))
    }

    /// Notes the kind of an operand that begins at `start`, and refuses what SQLite would compute otherwise.
    fn operand(&mut self, kind: &Kind, start: usize) -> Result<(), String> {
        let before = start.checked_sub(1).and_then(|at| self.tokens.get(at));
        let beside = |operators: &[&str]| {
            let mut tokens = before.into_iter().chain(self.peek(0));
            tokens.any(|token| operators.iter().any(|operator| token.is_operator(operator)))
        };
        let is_number = matches!(
            kind,
            Kind::Integer | Kind::Float | Kind::Numeric | Kind::NumericReal | Kind::NumericExact
        );
        if beside(&["+", "-", "*", "/"]) && !is_number {
            return Err("it computes with what is text here".into());
        }
        if beside(&["||"]) && !(kind.is_textual() || *kind == Kind::Integer) {
            return Err("its text is another here".into());
        }
        let is_null = self.peek(0).is_some_and(|token| token.is_word("is"));
        let place = self.scope.place;
        let is_computed =
            place == Place::Value && !beside(COMPARISONS) || place.is_of_view() && beside(&["+", "-", "*", "/"]);
        if *kind == Kind::Numeric && is_computed && !is_null {
            return Err(COMPUTED.into());
        }
        if !self.in_when {
            self.kinds.push(kind.clone());
        }
        Ok(())
    }

    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn part(&mut self, token: &Token) -> Result<String, String> {
        match token {
            Token::Text(text) => {
                self.at += 1;
                let text = text.clone();
                self.cast_of_literal(&text, true)
            }
            Token::Number(number) => {
                self.at += 1;
                let number = number.clone();
                self.cast_of_literal(&number, false)
            }
            Token::Mark('(') => self.group(),
            Token::Mark(',') => {
                self.at += 1;
                Ok(",".into())
            }
            Token::Word(word)
                if self.peek(1).is_some_and(|token| token.is_mark('(')) && !WORDS.contains(&word.as_str()) =>
            {
                self.call(word)
            }
            Token::Word(name) | Token::Name(name) => {
                let start = self.at;
                if let (Some(dot), Some(Token::Word(of) | Token::Name(of))) = (self.peek(1), self.peek(2))
                    && dot.is_mark('.')
                    && let Some((kind, column)) = (self.scope.column)(Some(name), of)
                {
                    self.at += 3;
                    return self.cast(column, &kind, start);
                }
                if let Some((kind, column)) = (self.scope.column)(None, name) {
                    self.at += 1;
                    return self.cast(column, &kind, start);
                }
                match token {
                    Token::Word(word) if WORDS.contains(&word.as_str()) => {
                        self.at += 1;
                        Ok(self.word(word)?)
                    }
                    Token::Word(word)
                        if self.scope.place == Place::Default
                            && ["current_timestamp", "localtimestamp", "current_date"].contains(&word.as_str()) =>
                    {
                        self.at += 1;
                        match word.as_str() {
                            "current_timestamp" => Ok(NOW.into()),
                            "current_date" => Ok("date('now')".into()),
                            _ => Err("it depends on the time zone of the session".into()),
                        }
                    }
                    _ => Err(format!("{token} is not known")),
                }
            }
            Token::Operator(operator) => self.operator(operator),
            Token::Mark(mark) => Err(format!("{mark} has no counterpart here")),
        }
    }

    /// A word that means the same.
    fn word(&mut self, word: &str) -> Result<String, String> {
        match word {
            "when" => self.in_when = true,
            "then" => self.in_when = false,
            "in" | "between" | "distinct" => (self.is_condition, self.compares) = (true, true),
            "and" | "or" | "not" | "is" if !self.in_when => self.is_condition = true,
            "true" | "false" if !self.in_when => self.kinds.push(Kind::Bool),
            // Of any type.
            "null" => while self.target_of_cast()?.is_some() {},
            _ => {}
        }
        Ok(word.to_uppercase())
    }

    /// What is in parentheses, with the casts behind it.
    fn group(&mut self) -> Result<String, String> {
        let start = self.at;
        let mut cursor = Cursor::new(&self.tokens[self.at..]);
        let inner = cursor.parenthesised().ok_or("a parenthesis has no end")?;
        self.at += inner.len() + 2;
        if inner
            .first()
            .is_some_and(|token| token.is_word("select") || token.is_word("with"))
        {
            let query = self.scope.query.ok_or("a query has no place here")?;
            let (sql, kinds) = query(inner, true)?;
            for kind in &kinds {
                self.operand(kind, start)?;
            }
            return Ok(format!("({sql})"));
        }
        let number = match inner {
            [Token::Number(number)] => Some(number.clone()),
            [Token::Operator(sign), Token::Number(number)] if sign == "-" => Some(format!("-{number}")),
            _ => None,
        };
        if let Some(text) = number {
            let is_whole = !text.contains(['.', 'e', 'E']);
            let mut last = if is_whole { Kind::Integer } else { Kind::Numeric };
            while let Some(kind) = self.target_of_cast()? {
                if !matches!(kind, Kind::Integer | Kind::Float | Kind::Numeric | Kind::NumericReal) {
                    return Err("a number as another type has no counterpart".into());
                }
                last = kind;
            }
            self.operand(&last, start)?;
            // A division of whole numbers cuts the fraction.
            let is_real = matches!(last, Kind::Float | Kind::NumericReal) && is_whole;
            return Ok(if is_real {
                format!("({text}.0)")
            } else {
                format!("({text})")
            });
        }
        let (text, kinds) = translate_with_kinds(inner, self.scope)?;
        // The kind of `(column)` is known.
        let kind = match inner {
            [Token::Word(name) | Token::Name(name)] => (self.scope.column)(None, name).map(|(kind, _)| kind),
            [
                Token::Word(of) | Token::Name(of),
                Token::Mark('.'),
                Token::Word(name) | Token::Name(name),
            ] => (self.scope.column)(Some(of), name).map(|(kind, _)| kind),
            [.., cast, _] if cast.is_operator("::") => inner.last().and_then(|token| match token {
                Token::Word(name) if name == "text" => Some(Kind::Text),
                _ => None,
            }),
            [Token::Word(name), ..] if ["lower", "upper", "btrim", "replace"].contains(&name.as_str()) => {
                Some(Kind::Text)
            }
            _ => None,
        };
        match kind {
            Some(kind) => self.cast(format!("({text})"), &kind, start),
            None if self.peek(0).is_some_and(|token| token.is_operator("::")) => {
                Err("the type of what is cast is not known".into())
            }
            None => {
                for kind in &kinds {
                    self.operand(kind, start)?;
                }
                Ok(format!("({text})"))
            }
        }
    }

    fn target_of_cast(&mut self) -> Result<Option<Kind>, String> {
        if !self.peek(0).is_some_and(|token| token.is_operator("::")) {
            return Ok(None);
        }
        let (name, count) = TypeName::read(&self.tokens[self.at + 1..]).ok_or("a cast without a type")?;
        self.at += 1 + count;
        Ok(Some((self.scope.kind)(&name)))
    }

    fn cast_of_literal(&mut self, text: &str, is_text: bool) -> Result<String, String> {
        let start = self.at - 1;
        let mut kind = match is_text {
            true => Kind::Text,
            false if text.bytes().all(|byte| byte.is_ascii_digit()) => Kind::Integer,
            // A literal with a point is numeric there.
            false => Kind::Numeric,
        };
        let mut was_cast = false;
        while let Some(next) = self.target_of_cast()? {
            (kind, was_cast) = (next, true);
        }
        self.operand(&kind, start)?;
        match kind {
            _ if !was_cast && !is_text => Ok(text.to_owned()),
            // It is compared with numbers, and stands in the statement as it is.
            Kind::Numeric | Kind::NumericReal | Kind::NumericExact if is_plain_number(text) => Ok(text.to_owned()),
            Kind::Numeric | Kind::NumericReal | Kind::NumericExact => Err("it is no plain number".into()),
            Kind::Interval => Err("arithmetic with intervals has no counterpart".into()),
            kind => as_sql(&value(&kind, text.as_bytes())?).ok_or_else(|| "a number that is not finite".to_owned()),
        }
    }

    /// Whether an operator beside an operand takes more of it than whether two texts are the same.
    fn is_ordered(&self, start: usize, or_compared: bool) -> bool {
        let before = start.checked_sub(1).and_then(|at| self.tokens.get(at));
        let is_other = |token: &Token| match token {
            Token::Operator(operator) => {
                or_compared || !["=", "<>", "!=", "||", "~~", "!~~"].contains(&operator.as_str())
            }
            _ => false,
        };
        before.is_some_and(is_other) || self.peek(0).is_some_and(is_other)
    }

    /// Whether the operand that was read is compared with a literal.
    fn is_beside_literal(&self) -> bool {
        let compares = self
            .peek(0)
            .is_some_and(|token| COMPARISONS.iter().any(|operator| token.is_operator(operator)));
        let number = self.peek(1).into_iter().chain(self.peek(2)).chain(self.peek(3));
        let mut number = number.skip_while(|token| token.is_mark('(') || token.is_operator("-"));
        let is_any = self
            .peek(1)
            .is_some_and(|token| token.is_word("any") || token.is_word("all"));
        compares && (is_any || matches!(number.next(), Some(Token::Number(_) | Token::Text(_))))
    }

    /// The casts behind an operand of a known kind, which begins at `start`.
    fn cast(&mut self, operand: String, kind: &Kind, start: usize) -> Result<String, String> {
        let mut kind = kind.clone();
        let mut operand = operand;
        while let Some(next) = self.target_of_cast()? {
            let as_is = kind == next
                || kind.is_textual() && next.is_textual()
                || matches!((&kind, &next), (Kind::Bool, Kind::Integer));
            if !as_is {
                operand = match (&kind, &next) {
                    (Kind::Integer, Kind::Text) => format!("CAST({operand} AS TEXT)"),
                    (Kind::Integer | Kind::Numeric, Kind::Float | Kind::NumericReal) => {
                        format!("CAST({operand} AS REAL)")
                    }
                    (Kind::Integer | Kind::Numeric, Kind::Numeric) => operand,
                    _ => return Err("a cast has no counterpart".into()),
                };
            }
            if next != Kind::Text || kind != Kind::Numeric {
                kind = next;
            }
        }
        self.operand(&kind, start)?;
        // In count() it is whether there is a value.
        let is_alone = start == 0 && self.at == self.tokens.len();
        match kind {
            // PostgreSQL's order of enums, amounts, addresses and ranges is not that of their text.
            Kind::AsText | Kind::Interval if self.is_ordered(start, kind == Kind::Interval) => {
                Err("its text sorts otherwise".into())
            }
            // Its text would be compared as text.
            Kind::Numeric if self.peek(0).is_some_and(|token| token.is_word("is")) => Ok(operand),
            Kind::Numeric if self.scope.place.is_of_view() && !is_alone && !self.is_beside_literal() => {
                Err(COMPUTED.into())
            }
            Kind::Numeric => Ok(format!("CAST({operand} AS REAL)")),
            Kind::Array(_) => Err("an array is JSON here".into()),
            _ => Ok(operand),
        }
    }

    fn operator(&mut self, operator: &str) -> Result<String, String> {
        // `= ANY (ARRAY[..])`
        let any = match operator {
            "=" => Some(("any", "IN")),
            "<>" => Some(("all", "NOT IN")),
            _ => None,
        };
        if let Some((word, sqlite)) = any
            && self.peek(1).is_some_and(|token| token.is_word(word))
        {
            let mut cursor = Cursor::new(&self.tokens[self.at + 2..]);
            let inner = cursor.parenthesised().ok_or("ANY without an array")?;
            self.at += 2 + inner.len() + 2;
            let items = array(inner).ok_or("ANY is read of ARRAY[..] alone")?;
            let (items, kinds) = translate_with_kinds(items, self.scope)?;
            self.kinds.extend(kinds);
            (self.is_condition, self.compares) = (true, true);
            return Ok(format!("{sqlite} ({items})"));
        }
        let like = match operator {
            "~~" => Some("GLOB"),
            "!~~" => Some("NOT GLOB"),
            _ => None,
        };
        if let Some(glob) = like {
            let Some(Token::Text(pattern)) = self.peek(1) else {
                return Err("LIKE is read with a literal alone".into());
            };
            if matches!(self.kinds.last(), Some(Kind::Char(_))) {
                return Err("LIKE of char(n) counts its blanks".into());
            }
            if pattern.contains(['\\', '[', '*', '?']) {
                return Err("the pattern of LIKE has characters that GLOB reads otherwise".into());
            }
            let pattern = string(&pattern.replace('%', "*").replace('_', "?"));
            self.at += 2;
            while self.target_of_cast()?.is_some() {}
            self.is_condition = true;
            return Ok(format!("{glob} {pattern}"));
        }
        if !OPERATORS.contains(&operator) {
            return Err(format!("the operator {operator} has no counterpart"));
        }
        self.at += 1;
        if COMPARISONS.contains(&operator) {
            self.is_condition |= !self.in_when;
            self.compares = true;
        }
        Ok(operator.to_owned())
    }

    fn call(&mut self, name: &str) -> Result<String, String> {
        let start = self.at;
        let mut cursor = Cursor::new(&self.tokens[self.at + 1..]);
        let inner = cursor.parenthesised().ok_or("a call has no end")?;
        self.at += inner.len() + 3;
        let place = self.scope.place;
        if let ("exists", Some(query)) = (name, self.scope.query) {
            self.is_condition = true;
            return Ok(format!("EXISTS ({})", query(inner, false)?.0));
        }
        if place.is_of_view() && AGGREGATES.contains(&name) {
            return self.aggregate(name, inner, start);
        }
        let (result, kinds) = match name {
            "now" | "statement_timestamp" | "transaction_timestamp" | "clock_timestamp" if place == Place::Default => {
                (NOW.to_owned(), vec![Kind::TimestampTz])
            }
            "gen_random_uuid" | "uuid_generate_v4" if place == Place::Default => {
                (RANDOM_UUID.to_owned(), vec![Kind::Uuid])
            }
            name => {
                let known = FUNCTIONS.iter().find(|(there, _)| *there == name);
                let (_, sqlite) = known.ok_or_else(|| format!("the function {name} has no counterpart"))?;
                if place.is_of_view() && OF_ASCII.contains(&name) {
                    return Err(format!("{name} means the same for the letters of ASCII alone"));
                }
                let (arguments, kinds) = translate_with_kinds(inner, self.scope)?;
                let kinds = match *sqlite {
                    "abs" | "coalesce" | "nullif" => kinds,
                    "length" => vec![Kind::Integer],
                    _ => vec![Kind::Text],
                };
                (format!("{sqlite}({arguments})"), kinds)
            }
        };
        if self.peek(0).is_some_and(|token| token.is_operator("::")) {
            return self.cast(result, &Kind::Text, start);
        }
        for kind in &kinds {
            self.operand(kind, start)?;
        }
        Ok(result)
    }

    /// A function over the rows of a view.
    fn aggregate(&mut self, name: &str, inner: &[Token], start: usize) -> Result<String, String> {
        let scope = Scope {
            place: Place::Value,
            ..*self.scope
        };
        let (distinct, inner) = match inner {
            [Token::Word(word), rest @ ..] if word == "distinct" => ("DISTINCT ", rest),
            inner => ("", inner),
        };
        let order = inner
            .windows(2)
            .position(|two| two[0].is_word("order") && two[1].is_word("by"));
        let (inner, order) = inner.split_at(order.unwrap_or(inner.len()));
        let is_star = matches!(inner, [Token::Operator(star)] if star == "*");
        let (arguments, kinds) = match is_star {
            true => ("*".to_owned(), Vec::new()),
            // Only whether there is a value counts.
            false if name == "count" && distinct.is_empty() => {
                let scope = Scope {
                    place: Place::Condition,
                    ..*self.scope
                };
                translate_with_kinds(inner, &scope)?
            }
            false => translate_with_kinds(inner, &scope)?,
        };
        if !distinct.is_empty() && !kinds.iter().all(is_comparable) {
            return Err("DISTINCT of values that may be the same with another text".into());
        }
        let sums = |kind: &Kind| matches!(kind, Kind::Integer | Kind::Float | Kind::NumericReal);
        let (function, kind) = match name {
            "count" => ("count", Kind::Integer),
            "sum" if kinds.iter().all(sums) => {
                let is_real = kinds.iter().any(|kind| *kind != Kind::Integer);
                ("sum", if is_real { Kind::Float } else { Kind::Integer })
            }
            "avg" if kinds.iter().all(|kind| *kind == Kind::Float) => ("avg", Kind::Float),
            "min" | "max" if kinds.iter().all(is_comparable) => {
                let kind = kinds
                    .first()
                    .cloned()
                    .ok_or("the type of what is compared is not known")?;
                (if name == "min" { "min" } else { "max" }, kind)
            }
            "bool_and" | "every" => ("min", Kind::Bool),
            "bool_or" => ("max", Kind::Bool),
            "string_agg" if distinct.is_empty() && kinds.iter().all(|kind| *kind == Kind::Text) => {
                ("group_concat", Kind::Text)
            }
            _ => return Err(format!("{name} of this type has no counterpart")),
        };
        let order = match order {
            [] => String::new(),
            [_, _, keys @ ..] => format!(" ORDER BY {}", sorted(keys, &scope)?),
            [_] => return Err("ORDER without BY".into()),
        };
        let mut result = format!("{function}({distinct}{arguments}{order})");
        if self.peek(0).is_some_and(|token| token.is_word("filter")) {
            let mut cursor = Cursor::new(&self.tokens[self.at + 1..]);
            let filter = cursor.parenthesised().ok_or("FILTER without a condition")?;
            self.at += 1 + filter.len() + 2;
            let scope = Scope {
                place: Place::Condition,
                ..*self.scope
            };
            let condition = filter.get(1..).ok_or("FILTER without a condition")?;
            result.push_str(&format!(" FILTER (WHERE {})", translate(condition, &scope)?));
        }
        if self.peek(0).is_some_and(|token| token.is_operator("::")) {
            return self.cast(result, &kind, start);
        }
        self.operand(&kind, start)?;
        Ok(result)
    }
}

/// The keys of ORDER BY. NULL is the greatest value in PostgreSQL, and the least in SQLite.
pub(super) fn sorted(keys: &[Token], scope: &Scope<'_>) -> Result<String, String> {
    let mut sorted = Vec::new();
    for key in split(keys) {
        let (key, nulls) = match key {
            [key @ .., nulls, first] if nulls.is_word("nulls") => (key, Some(first.is_word("first"))),
            key => (key, None),
        };
        let (key, descends) = match key {
            [key @ .., word] if word.is_word("desc") => (key, true),
            [key @ .., word] if word.is_word("asc") => (key, false),
            key => (key, false),
        };
        let order = if descends { " DESC" } else { "" };
        let first = if nulls.unwrap_or(descends) { "FIRST" } else { "LAST" };
        sorted.push(format!("{}{order} NULLS {first}", comparable(key, scope, "sorts by")?));
    }
    Ok(sorted.join(", "))
}

/// An expression whose values both databases compare alike.
pub(super) fn comparable(tokens: &[Token], scope: &Scope<'_>, does: &str) -> Result<String, String> {
    let (sql, kinds) = translate_with_kinds(tokens, scope)?;
    match kinds.iter().all(is_comparable) {
        // A whole number is the number of a column.
        true if sql
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"()+- ".contains(&byte)) =>
        {
            Err(format!("it {does} a constant"))
        }
        true => Ok(sql),
        false => Err(format!(
            "it {does} {}, whose values are compared otherwise here",
            shown(tokens)
        )),
    }
}

/// Digits with at most one sign and one point.
fn is_plain_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    is_digits(whole) && is_digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

/// The items of `ARRAY[..]`, with parentheses and casts of the whole.
fn array(tokens: &[Token]) -> Option<&[Token]> {
    match tokens {
        [Token::Word(word), Token::Mark('['), rest @ ..] if word == "array" => {
            let end = rest.iter().position(|token| token.is_mark(']'))?;
            Some(&rest[..end])
        }
        [Token::Mark('('), ..] => array(Cursor::new(tokens).parenthesised()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sql::tokens;
    use super::*;
    use crate::connection::sql_text::quoted;

    fn translated(text: &str, is_default: bool) -> Result<String, String> {
        let column = |_: Option<&str>, name: &str| {
            let kind = match name {
                "status" | "email" => Kind::Text,
                "id" | "n" => Kind::Integer,
                "price" => Kind::Numeric,
                "at" => Kind::Timestamp,
                "day" => Kind::Date,
                "done" => Kind::Bool,
                "ip" | "rating" => Kind::AsText,
                "span" => Kind::Interval,
                _ => return None,
            };
            Some((kind, quoted(name)))
        };
        let scope = Scope {
            column: &column,
            kind: &|name| Kind::of_builtin(name, false),
            place: if is_default { Place::Default } else { Place::Rule },
            query: None,
        };
        translate(&tokens(text).unwrap(), &scope)
    }

    #[test]
    fn expressions_that_mean_the_same_are_translated() {
        for (from, wanted) in [
            (
                "((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))",
                r#"(("status") IN ('a' , 'b'))"#,
            ),
            ("(price > (0)::numeric)", r#"(CAST("price" AS REAL) > (0))"#),
            ("price > '-0.5'::numeric", r#"CAST("price" AS REAL) > -0.5"#),
            (
                "(price)::double precision > 1",
                r#"CAST((CAST("price" AS REAL)) AS REAL) > 1"#,
            ),
            (
                "(ip = '::1'::inet) AND (span IS NOT NULL)",
                r#"("ip" = '::1') AND ("span" IS NOT NULL)"#,
            ),
            ("(id > 0) AND (n IS NOT NULL)", r#"("id" > 0) AND ("n" IS NOT NULL)"#),
            ("lower((email)::text)", r#"lower(("email"))"#),
            ("(email ~~ '%@%'::text)", r#"("email" GLOB '*@*')"#),
            (
                "at >= '2020-01-01 00:00:00'::timestamp without time zone",
                r#""at" >= '2020-01-01T00:00:00.000000'"#,
            ),
            ("(status)::text <> ''::text", r#"("status") <> ''"#),
        ] {
            assert_eq!(translated(from, false).as_deref(), Ok(wanted), "{from}");
        }
        assert_eq!(translated("now()", true).unwrap(), NOW);
    }

    #[test]
    fn other_expressions_are_refused() {
        for from in [
            "now()",
            "email ~ '^a'::text",
            "(at + '1 day'::interval) > at",
            "to_tsvector('english'::regconfig, email)",
            "unknown = 1",
            "ip > '10.0.0.1'::inet",
            "('a'::text < rating)",
            "(rating) >= 'b'::rating",
            "span = span",
            "((at)::date > at)",
            "price <> 'NaN'::numeric",
            "price < '1) OR (1'::numeric",
            "price < '--1'::numeric",
            "price < ''::numeric",
            "((day - day) > 5)",
            "((day + 1) > day)",
            "(day < at)",
            "(at >= '2020-01-01'::date)",
            "at = ANY (ARRAY['2020-01-01'::date])",
            "((done || 'x'::text) = 'truex'::text)",
            "((price || 'x'::text) = '1.50x'::text)",
            "((at || 'x'::text) = ''::text)",
            "count(*) > 1",
            "id IN ( SELECT 1)",
        ] {
            assert!(translated(from, false).is_err(), "{from}");
        }
    }
}
