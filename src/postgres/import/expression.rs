//! Expressions of PostgreSQL as SQLite's, where they mean the same. All others are refused with a reason.

use rusqlite::types::Value;

use super::kind::{Kind, TypeName};
use super::model::Cursor;
use super::sql::Token;
use super::values::value;
use crate::connection::sql_text::{quoted, string};
use crate::runtime::hex::hex;

/// What an expression may name.
pub(super) struct Scope<'s> {
    /// The kind and the name in SQLite of a column.
    pub(super) column: &'s dyn Fn(&str) -> Option<(Kind, String)>,
    /// The kind of a type, through domains and enums.
    pub(super) kind: &'s dyn Fn(&TypeName) -> Kind,
    /// Whether the time and random numbers may be asked for: in a DEFAULT alone.
    pub(super) is_default: bool,
}

/// The words that mean the same.
const WORDS: &[&str] = &[
    "and", "or", "not", "is", "null", "true", "false", "in", "between", "case", "when", "then", "else", "end",
    "distinct", "from",
];

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

/// Translates an expression.
pub(super) fn translate(tokens: &[Token], scope: &Scope<'_>) -> Result<String, String> {
    Translation { scope, tokens, at: 0 }.run()
}

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
}

impl Translation<'_, '_> {
    fn run(mut self) -> Result<String, String> {
        let mut parts = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            let part = self.part(token)?;
            parts.push(part);
        }
        Ok(parts.join(" "))
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
                if let Some((kind, name)) = (self.scope.column)(name) {
                    self.at += 1;
                    return self.cast(quoted(&name), &kind, self.at - 1);
                }
                match token {
                    Token::Word(word) if WORDS.contains(&word.as_str()) => {
                        self.at += 1;
                        Ok(word.to_uppercase())
                    }
                    Token::Word(word)
                        if self.scope.is_default
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

    /// What is in parentheses, with the casts behind it.
    fn group(&mut self) -> Result<String, String> {
        let start = self.at;
        let mut cursor = Cursor::new(&self.tokens[self.at..]);
        let inner = cursor.parenthesised().ok_or("a parenthesis has no end")?;
        self.at += inner.len() + 2;
        let text = translate(inner, self.scope)?;
        let is_number = match inner {
            [Token::Number(_)] => true,
            [Token::Operator(sign), Token::Number(_)] => sign == "-",
            _ => false,
        };
        if is_number {
            while let Some(kind) = self.target_of_cast()? {
                if !matches!(kind, Kind::Integer | Kind::Float | Kind::Numeric | Kind::NumericReal) {
                    return Err("a number as another type has no counterpart".into());
                }
            }
            return Ok(format!("({text})"));
        }
        // The kind of `(column)` is known.
        let kind = match inner {
            [Token::Word(name) | Token::Name(name)] => (self.scope.column)(name).map(|(kind, _)| kind),
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
            None => Ok(format!("({text})")),
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
        let mut kind = if is_text { Kind::Text } else { Kind::Float };
        let mut was_cast = false;
        while let Some(next) = self.target_of_cast()? {
            (kind, was_cast) = (next, true);
        }
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
                    (Kind::Numeric, Kind::Float | Kind::NumericReal) => format!("CAST({operand} AS REAL)"),
                    (Kind::Integer | Kind::Numeric, Kind::Float | Kind::Numeric | Kind::NumericReal) => operand,
                    _ => return Err("a cast has no counterpart".into()),
                };
            }
            if next != Kind::Text || kind != Kind::Numeric {
                kind = next;
            }
        }
        match kind {
            // PostgreSQL's order of enums, amounts, addresses and ranges is not that of their text.
            Kind::AsText | Kind::Interval if self.is_ordered(start, kind == Kind::Interval) => {
                Err("its text sorts otherwise".into())
            }
            // Its text would be compared as text.
            Kind::Numeric => {
                let is_null = self.peek(0).is_some_and(|token| token.is_word("is"));
                Ok(if is_null {
                    operand
                } else {
                    format!("CAST({operand} AS REAL)")
                })
            }
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
            let items = translate(items, self.scope)?;
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
            if pattern.contains(['\\', '[', '*', '?']) {
                return Err("the pattern of LIKE has characters that GLOB reads otherwise".into());
            }
            let pattern = string(&pattern.replace('%', "*").replace('_', "?"));
            self.at += 2;
            while self.target_of_cast()?.is_some() {}
            return Ok(format!("{glob} {pattern}"));
        }
        if !OPERATORS.contains(&operator) {
            return Err(format!("the operator {operator} has no counterpart"));
        }
        self.at += 1;
        Ok(operator.to_owned())
    }

    fn call(&mut self, name: &str) -> Result<String, String> {
        let start = self.at;
        let mut cursor = Cursor::new(&self.tokens[self.at + 1..]);
        let inner = cursor.parenthesised().ok_or("a call has no end")?;
        let after = self.at + 1 + inner.len() + 2;
        let result = match name {
            "now" | "statement_timestamp" | "transaction_timestamp" | "clock_timestamp" if self.scope.is_default => {
                NOW.to_owned()
            }
            "gen_random_uuid" | "uuid_generate_v4" if self.scope.is_default => RANDOM_UUID.to_owned(),
            name => {
                let known = FUNCTIONS.iter().find(|(there, _)| *there == name);
                let (_, sqlite) = known.ok_or_else(|| format!("the function {name} has no counterpart"))?;
                format!("{sqlite}({})", translate(inner, self.scope)?)
            }
        };
        self.at = after;
        if self.peek(0).is_some_and(|token| token.is_operator("::")) {
            return self.cast(result, &Kind::Text, start);
        }
        Ok(result)
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

    fn translated(text: &str, is_default: bool) -> Result<String, String> {
        let column = |name: &str| {
            let kind = match name {
                "status" | "email" => Kind::Text,
                "id" | "n" => Kind::Integer,
                "price" => Kind::Numeric,
                "at" => Kind::Timestamp,
                "ip" | "rating" => Kind::AsText,
                "span" => Kind::Interval,
                _ => return None,
            };
            Some((kind, name.to_owned()))
        };
        let scope = Scope {
            column: &column,
            kind: &|name| Kind::of_builtin(name, false),
            is_default,
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
        ] {
            assert!(translated(from, false).is_err(), "{from}");
        }
    }
}
