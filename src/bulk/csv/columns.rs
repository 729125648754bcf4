//! The columns of the table that get the fields, and the values of these.

use rusqlite::types::Value;

use super::CsvType;
use crate::connection::sql_text::quoted;
use crate::error::{Error, Result};
use crate::transaction::ReadTx;

/// A field that is loaded, and the name of the column that it is for.
pub(super) struct Field {
    pub(super) at: usize,
    pub(super) name: String,
}

/// A column that gets a field.
pub(super) struct Column {
    name: String,
    at: usize,
    kind: CsvType,
}

/// What is to be loaded, and where.
pub(super) struct Wanted {
    pub(super) table: String,
    pub(super) fields: Vec<Field>,
    pub(super) types: Vec<(String, CsvType)>,
    pub(super) on_existing: OnExisting,
}

/// What happens to a row whose key is there.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum OnExisting {
    /// It violates a constraint.
    #[default]
    Violation,
    /// The line is left out.
    Keep,
    /// It gets the values of the line.
    Update,
}

pub(super) struct Target {
    pub(super) sql: String,
    pub(super) columns: Vec<Column>,
}

/// A column of the table.
struct Known {
    name: String,
    declared: String,
    /// A generated column, or one that a virtual table hides.
    is_hidden: bool,
    is_key: bool,
    is_required: bool,
}

impl Wanted {
    pub(super) fn find(&self, tx: &ReadTx<'_>) -> Result<Target> {
        let (table, is_strict, known) = look_up(tx, &self.table)?;
        let mut columns: Vec<Column> = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            let found = named(&known, &field.name).ok_or_else(|| {
                let names: Vec<&str> = known.iter().map(|column| column.name.as_str()).collect();
                refused(format!(
                    "the table {table} has no column {:?}; it has {}: give BulkCsv::rename or BulkCsv::ignore",
                    field.name,
                    names.join(", ")
                ))
            })?;
            if found.is_hidden {
                return Err(refused(format!(
                    "the column {} of {table} is generated or hidden: leave it out with BulkCsv::ignore",
                    found.name
                )));
            }
            if columns.iter().any(|column| column.name == found.name) {
                return Err(refused(format!(
                    "two fields are for the column {} of {table}: leave one out with BulkCsv::ignore",
                    found.name
                )));
            }
            columns.push(Column {
                name: found.name.clone(),
                at: field.at,
                kind: CsvType::of(&found.declared, is_strict),
            });
        }
        for (name, kind) in &self.types {
            let column = columns
                .iter_mut()
                .find(|column| column.name.eq_ignore_ascii_case(name))
                .ok_or_else(|| refused(format!("a type is given for {name:?}, and no field is for that column")))?;
            column.kind = *kind;
        }
        let end = match self.on_existing {
            OnExisting::Violation => String::new(),
            OnExisting::Keep => " ON CONFLICT DO NOTHING".to_owned(),
            OnExisting::Update => upsert(&table, &columns, &known)?,
        };
        let is_given = |known: &Known| columns.iter().any(|column| column.name == known.name);
        let missing: Vec<&str> = known
            .iter()
            .filter(|column| column.is_required && !is_given(column))
            .map(|column| column.name.as_str())
            .collect();
        if !missing.is_empty() {
            return Err(refused(format!(
                "no field is for {}, which {table} declares NOT NULL without a default",
                missing.join(", ")
            )));
        }
        // A clause such as ON CONFLICT REPLACE in the table would overwrite rows without a word. Only then is it
        // overruled, since that overrules the clauses of triggers, too.
        let verb = match has_conflict_clause(tx, &table)? {
            true => "INSERT OR ABORT",
            false => "INSERT",
        };
        let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
        let values: Vec<String> = (1..=names.len()).map(|n| format!("?{n}")).collect();
        let sql = format!(
            "{verb} INTO main.{}({}) VALUES ({}){end}",
            quoted(&table),
            names.join(", "),
            values.join(", ")
        );
        Ok(Target { sql, columns })
    }
}

fn refused(problem: String) -> Error {
    Error::Csv { problem, source: None }
}

fn named<'k>(known: &'k [Known], name: &str) -> Option<&'k Known> {
    let exact = known.iter().find(|column| column.name == name);
    exact.or_else(|| known.iter().find(|column| column.name.eq_ignore_ascii_case(name)))
}

/// The name of the table as it was created, whether it is STRICT, and its columns.
fn look_up(tx: &ReadTx<'_>, table: &str) -> Result<(String, bool, Vec<Known>)> {
    let look =
        "SELECT name, type, strict, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    let found: Option<(String, String, bool, bool)> = tx.optional(look, [table])?;
    let Some((table, kind, is_strict, without_rowid)) = found else {
        return Err(refused(format!("there is no table {table}: create it in a migration")));
    };
    if !["table", "virtual"].contains(&kind.as_str()) {
        return Err(refused(format!("{table} is a {kind}, and rows are loaded into tables")));
    }
    let look = "SELECT name, type, hidden, \"notnull\", dflt_value IS NOT NULL, pk FROM pragma_table_xinfo(?1, 'main')";
    let all: Vec<(String, String, i64, bool, bool, i64)> = tx.all(look, [&table])?;
    let keys = all.iter().filter(|(.., key)| *key > 0).count();
    // INTEGER PRIMARY KEY DESC has an index, and is a column like any other.
    let look = "SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'";
    let has_key_index = tx.exists(look, [&table])?;
    let known = all
        .into_iter()
        .map(|(name, declared, hidden, not_null, has_default, key)| {
            // SQLite gives such a key a value.
            let is_rowid =
                key > 0 && keys == 1 && !without_rowid && !has_key_index && declared.eq_ignore_ascii_case("INTEGER");
            Known {
                is_hidden: hidden != 0,
                is_key: key > 0,
                is_required: not_null && !has_default && !is_rowid && hidden == 0,
                name,
                declared,
            }
        })
        .collect();
    Ok((table, is_strict, known))
}

/// Sets the columns of the file in the row that has the key. The row itself stays, and so do those that refer to it.
fn upsert(table: &str, columns: &[Column], known: &[Known]) -> Result<String> {
    let keys: Vec<&str> = known
        .iter()
        .filter(|column| column.is_key)
        .map(|column| column.name.as_str())
        .collect();
    if keys.is_empty() {
        return Err(refused(format!(
            "BulkCsv::upsert: the table {table} has no primary key, by which a row is found"
        )));
    }
    let is_given = |key: &&str| columns.iter().any(|column| column.name == **key);
    if let Some(missing) = keys.iter().find(|key| !is_given(key)) {
        return Err(refused(format!(
            "BulkCsv::upsert: no field is for {missing}, a column of the primary key of {table}"
        )));
    }
    let set: Vec<String> = columns
        .iter()
        .filter(|column| !keys.contains(&column.name.as_str()))
        .map(|column| quoted(&column.name))
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    let action = match set.is_empty() {
        true => "NOTHING".to_owned(),
        false => format!("UPDATE SET {}", set.join(", ")),
    };
    let keys: Vec<String> = keys.iter().map(|name| quoted(name)).collect();
    Ok(format!(" ON CONFLICT ({}) DO {action}", keys.join(", ")))
}

fn has_conflict_clause(tx: &ReadTx<'_>, table: &str) -> Result<bool> {
    let look = "SELECT sql LIKE '%conflict%' FROM main.sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(tx.optional_scalar(look, [table])?.unwrap_or(false))
}

impl CsvType {
    /// By the affinity of a column: <https://sqlite.org/datatype3.html#determination_of_column_affinity>.
    fn of(declared: &str, is_strict: bool) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") || declared.is_empty() || is_strict && declared == "ANY" {
            Self::Text
        } else if has("BLOB") {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

impl Column {
    /// The place of its field in a line.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The value of a field, or why it has none.
    pub(super) fn value(&self, field: &[u8], nulls: &[Vec<u8>]) -> Result<Value, String> {
        if nulls.iter().any(|null| null == field) {
            return Ok(Value::Null);
        }
        if self.kind == CsvType::Blob {
            return Ok(Value::Blob(field.to_owned()));
        }
        let name = &self.name;
        let text = std::str::from_utf8(field)
            .map_err(|_| format!("column {name}: the text is not in UTF-8: convert the file, with iconv"))?;
        let wrong = |kind: &str| format!("column {name}: {} is no {kind}", shortened(text));
        Ok(match self.kind {
            CsvType::Integer => Value::Integer(integer(text).ok_or_else(|| wrong("INTEGER"))?),
            CsvType::Real => Value::Real(real(text).ok_or_else(|| wrong("REAL"))?),
            CsvType::Numeric => match (integer(text), real(text)) {
                (Some(number), _) => Value::Integer(number),
                (None, Some(number)) => Value::Real(number),
                // SQLite would make it infinite.
                (None, None) if is_too_large(text) => return Err(wrong("number that a REAL can hold")),
                (None, None) => Value::Text(text.to_owned()),
            },
            CsvType::Text | CsvType::Blob => Value::Text(text.to_owned()),
        })
    }
}

/// A field in a message.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?} ({} bytes)", format!("{}..", &text[..end]), text.len()),
        None => format!("{text:?}"),
    }
}

pub(super) fn integer(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

/// A number in decimal digits: no `inf`, no `nan`.
pub(super) fn real(text: &str) -> Option<f64> {
    decimal(text).filter(|number| number.is_finite())
}

fn is_too_large(text: &str) -> bool {
    decimal(text).is_some_and(f64::is_infinite)
}

fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_decimal = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse().ok().filter(|_| is_decimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, kind: CsvType) -> Result<Value, String> {
        let column = Column {
            name: "c".into(),
            at: 0,
            kind,
        };
        column.value(text.as_bytes(), &[Vec::new()])
    }

    #[test]
    fn values_have_the_type_of_their_column() {
        assert_eq!(of("", CsvType::Integer), Ok(Value::Null));
        assert_eq!(of(" 12", CsvType::Integer), Ok(Value::Integer(12)));
        assert_eq!(of("1e3", CsvType::Real), Ok(Value::Real(1000.0)));
        assert_eq!(of("007", CsvType::Text), Ok(Value::Text("007".into())));
        assert_eq!(of("ab", CsvType::Blob), Ok(Value::Blob(b"ab".to_vec())));
        assert_eq!(of("2.5", CsvType::Numeric), Ok(Value::Real(2.5)));
        assert_eq!(of("2026-04-01", CsvType::Numeric), Ok(Value::Text("2026-04-01".into())));
        for (text, kind) in [
            ("12.5", CsvType::Integer),
            ("9223372036854775808", CsvType::Integer),
            ("inf", CsvType::Real),
            ("NaN", CsvType::Real),
            ("1e999", CsvType::Real),
            ("-1e999", CsvType::Numeric),
        ] {
            let problem = of(text, kind).unwrap_err();
            assert!(problem.contains("column c") && problem.contains(text), "{problem}");
        }
    }

    #[test]
    fn affinities_are_those_of_sqlite() {
        for (declared, kind) in [
            ("INTEGER", CsvType::Integer),
            ("unsigned big int", CsvType::Integer),
            ("VARCHAR(20)", CsvType::Text),
            ("", CsvType::Text),
            ("BLOB", CsvType::Blob),
            ("DOUBLE PRECISION", CsvType::Real),
            ("DATETIME", CsvType::Numeric),
            ("NUMERIC(10,2)", CsvType::Numeric),
        ] {
            assert_eq!(CsvType::of(declared, false), kind, "{declared}");
        }
        assert_eq!(CsvType::of("ANY", true), CsvType::Text);
    }

    #[test]
    fn long_fields_are_shortened_in_messages() {
        let problem = of(&"ä".repeat(1000), CsvType::Integer).unwrap_err();
        assert!(problem.len() < 200 && problem.contains("(2000 bytes)"), "{problem}");
    }
}
