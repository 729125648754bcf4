//! PostgreSQL's types, and the column that each becomes.

use super::sql::Token;

/// The name of a type as the dump or `format_type` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TypeName {
    pub(super) schema: Option<String>,
    /// The short name of a built-in type: `int4`, `varchar`, `timestamptz`.
    pub(super) name: String,
    pub(super) modifiers: Vec<String>,
    pub(super) is_array: bool,
}

impl TypeName {
    /// Reads a type at the start of tokens. Returns it with the number of tokens that it has.
    pub(super) fn read(tokens: &[Token]) -> Option<(Self, usize)> {
        let mut at = 0;
        let word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.is_word(word));
        let (mut schema, mut name, quoted) = match tokens.first()? {
            Token::Word(name) => (None, name.clone(), false),
            Token::Name(name) => (None, name.clone(), true),
            _ => return None,
        };
        at += 1;
        if tokens.get(at).is_some_and(|token| token.is_mark('.')) {
            let last = match tokens.get(at + 1)? {
                Token::Word(name) | Token::Name(name) => name.clone(),
                _ => return None,
            };
            schema = Some(std::mem::replace(&mut name, last)).filter(|schema| schema != "pg_catalog");
            at += 2;
        }
        let mut modifiers = Vec::new();
        let mut read_modifiers = |at: &mut usize| {
            if tokens.get(*at).is_some_and(|token| token.is_mark('(')) {
                while let Some(token) = tokens.get(*at) {
                    *at += 1;
                    match token {
                        Token::Mark(')') => break,
                        Token::Mark(_) => {}
                        token => modifiers.push(token.to_string()),
                    }
                }
            }
        };
        if !quoted && schema.is_none() {
            match name.as_str() {
                "character" | "char" | "bit" | "national" if word(at, "varying") => {
                    at += 1;
                    name = if name == "bit" { "varbit" } else { "varchar" }.into();
                }
                "double" if word(at, "precision") => at += 1,
                "interval" => {
                    while tokens.get(at).is_some_and(
                        |token| matches!(token, Token::Word(word) if INTERVAL_FIELDS.contains(&word.as_str())),
                    ) {
                        at += 1;
                    }
                }
                _ => {}
            }
        }
        read_modifiers(&mut at);
        if !quoted && schema.is_none() && matches!(name.as_str(), "time" | "timestamp") {
            if word(at, "with") && word(at + 1, "time") && word(at + 2, "zone") {
                name.push_str("tz");
                at += 3;
            } else if word(at, "without") && word(at + 1, "time") && word(at + 2, "zone") {
                at += 3;
            }
        }
        let mut is_array = false;
        while tokens.get(at).is_some_and(|token| token.is_mark('[')) {
            is_array = true;
            while tokens.get(at).is_some_and(|token| !token.is_mark(']')) {
                at += 1;
            }
            at += 1;
        }
        if schema.is_none() && !quoted {
            name = short(&name).to_owned();
        }
        let this = Self {
            schema,
            name,
            modifiers,
            is_array,
        };
        Some((this, at))
    }

    pub(super) fn shown(&self) -> String {
        let schema = self.schema.as_deref().filter(|schema| *schema != "public");
        let schema = schema.map(|schema| format!("{schema}.")).unwrap_or_default();
        let modifiers = match self.modifiers.as_slice() {
            [] => String::new(),
            modifiers => format!("({})", modifiers.join(",")),
        };
        let array = if self.is_array { "[]" } else { "" };
        format!("{schema}{}{modifiers}{array}", self.name)
    }

    /// The first modifier, as a number.
    pub(super) fn length(&self) -> Option<usize> {
        self.modifiers.first()?.parse().ok()
    }
}

const INTERVAL_FIELDS: &[&str] = &["year", "month", "day", "hour", "minute", "second", "to"];

fn short(name: &str) -> &str {
    match name {
        "integer" | "int" => "int4",
        "bigint" => "int8",
        "smallint" => "int2",
        "boolean" => "bool",
        "real" => "float4",
        "double" | "float" => "float8",
        "character" | "char" => "bpchar",
        "decimal" => "numeric",
        name => name,
    }
}

/// How the values of a column are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Integer,
    /// REAL. NaN has no counterpart in SQLite.
    Float,
    /// As text, with all digits.
    Numeric,
    /// REAL on request.
    NumericReal,
    /// A number of SQLite with the same digits, in a column that migrations have made.
    NumericExact,
    Text,
    /// Blanks at the end have no meaning, and are left out.
    Char(usize),
    Bytea,
    Date,
    Timestamp,
    TimestampTz,
    Time,
    Interval,
    Json,
    Uuid,
    /// A JSON array.
    Array(Box<Kind>),
    /// PostgreSQL's text of it.
    AsText,
}

impl Kind {
    /// The kind of a built-in type, or `AsText`.
    pub(super) fn of_builtin(name: &TypeName, numeric_as_real: bool) -> Self {
        let kind = match name.name.as_str() {
            "bool" => Self::Bool,
            "int2" | "int4" | "int8" | "oid" | "serial" | "bigserial" | "smallserial" => Self::Integer,
            "float4" | "float8" => Self::Float,
            "numeric" if numeric_as_real => Self::NumericReal,
            "numeric" => Self::Numeric,
            "text" | "varchar" | "name" | "citext" => Self::Text,
            "bpchar" if name.schema.is_none() => Self::Char(name.length().unwrap_or(1)),
            "bytea" => Self::Bytea,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampTz,
            "time" => Self::Time,
            "interval" => Self::Interval,
            "json" | "jsonb" => Self::Json,
            "uuid" => Self::Uuid,
            _ => Self::AsText,
        };
        match name.is_array {
            true => Self::Array(Box::new(kind)),
            false => kind,
        }
    }

    /// The type of the column in a STRICT table.
    pub(super) fn sqlite_type(&self) -> &'static str {
        match self {
            Self::Bool | Self::Integer => "INTEGER",
            Self::Float | Self::NumericReal | Self::NumericExact => "REAL",
            Self::Bytea => "BLOB",
            _ => "TEXT",
        }
    }

    /// Whether text stands for it that PostgreSQL would compare as text.
    pub(super) fn is_textual(&self) -> bool {
        matches!(self, Self::Text | Self::Char(_) | Self::Uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sql::tokens;
    use super::*;

    #[test]
    fn types_are_read_as_pg_dump_writes_them() {
        for (text, wanted, count) in [
            ("integer NOT NULL", "int4", 1),
            ("character varying(20)[] x", "varchar(20)[]", 7),
            ("timestamp(3) with time zone DEFAULT", "timestamptz(3)", 7),
            ("time without time zone", "time", 4),
            ("double precision", "float8", 2),
            ("numeric(10,2)", "numeric(10,2)", 6),
            ("public.mood", "mood", 3),
            ("sales.\"Kind\"[][]", "sales.Kind[]", 7),
            ("bit varying(3)", "varbit(3)", 5),
            ("interval year to month", "interval", 4),
            ("\"char\"", "char", 1),
        ] {
            let (read, end) = TypeName::read(&tokens(text).unwrap()).unwrap();
            assert_eq!((read.shown().as_str(), end), (wanted, count), "{text}");
        }
    }
}
