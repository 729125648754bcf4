//! The table of an import: its columns and their types, found or created.

use std::collections::BTreeMap;
use std::path::Path;

use larder::WriteTx;

use super::source::{Named, Source, display};
use super::values::{Nulls, integer, real};
use crate::args::{ImportArgs, OnConflict};
use crate::failure::{Failure, Result};

/// How values of a column are read: <https://sqlite.org/datatype3.html#determination_of_column_affinity>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    Integer,
    Real,
    Text,
    Blob,
    /// A number if it looks like one, or else text.
    Numeric,
}

impl Affinity {
    fn of(declared: &str, is_strict: bool) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") || has("ANY") && is_strict || declared.is_empty() {
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

/// A column that gets a field.
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) field: usize,
    pub(crate) affinity: Affinity,
}

pub(crate) struct Target {
    table: String,
    /// The columns of the primary key.
    key: Vec<String>,
    has_clause: bool,
    pub(crate) columns: Vec<Column>,
}

impl Target {
    /// Finds the table and the columns that the header names, exactly or but for case.
    pub(crate) fn find(tx: &WriteTx<'_>, table: &str, header: &[Named], file: &Path) -> Result<Self> {
        let Some((kind, is_strict)) = table_kind(tx, table)? else {
            return Err(Failure::Other(format!(
                "there is no table {table}: create it in a migration, or with --create-table"
            )));
        };
        if !["table", "virtual"].contains(&kind.as_str()) {
            return Err(Failure::Other(format!(
                "{table} is a {kind}, and rows are imported into tables"
            )));
        }
        let all: Vec<(String, String, i64)> =
            tx.all("SELECT name, type, hidden FROM pragma_table_xinfo(?1)", [table])?;
        let column = |named: &Named| {
            let exact = all.iter().find(|(name, ..)| *name == named.name);
            let found = exact.or_else(|| all.iter().find(|(name, ..)| name.eq_ignore_ascii_case(&named.name)));
            match found {
                Some((name, declared, 0)) => Ok(Column {
                    name: name.clone(),
                    field: named.field,
                    affinity: Affinity::of(declared, is_strict),
                }),
                Some((name, ..)) => Err(format!(
                    "the column {name} of {table} is generated: leave it out with --skip"
                )),
                None => {
                    let names = all
                        .iter()
                        .map(|(name, ..)| name.as_str())
                        .collect::<Vec<_>>()
                        .join(", ");
                    Err(format!(
                        "the table {table} has no column {:?} (it has {names}): give --map {}=COLUMN or --skip {}",
                        named.name, named.name, named.name
                    ))
                }
            }
        };
        let columns = header.iter().map(column).collect::<std::result::Result<Vec<_>, _>>();
        let columns = columns.map_err(|problem| Failure::Other(format!("{}: {problem}", display(file))))?;
        for (at, column) in columns.iter().enumerate() {
            if columns[..at].iter().any(|other| other.name == column.name) {
                let problem = format!(
                    "two fields are for the column {}: give one of them to --skip",
                    column.name
                );
                return Err(Failure::Other(format!("{}: {problem}", display(file))));
            }
        }
        Ok(Self {
            table: table.to_owned(),
            key: tx.scalars(
                "SELECT name FROM pragma_table_xinfo(?1) WHERE pk > 0 ORDER BY pk",
                [table],
            )?,
            has_clause: has_clause(tx, table)?,
            columns,
        })
    }

    pub(crate) fn insert(&self, on_conflict: OnConflict, file: &Path) -> Result<String> {
        let names: Vec<String> = self.columns.iter().map(|column| quoted(&column.name)).collect();
        let values: Vec<String> = (1..=names.len()).map(|n| format!("?{n}")).collect();
        let verb = match self.has_clause {
            true => "INSERT OR ABORT",
            false => "INSERT",
        };
        let end = match on_conflict {
            OnConflict::Fail => String::new(),
            OnConflict::Skip => " ON CONFLICT DO NOTHING".to_owned(),
            OnConflict::Replace => self.update(file)?,
        };
        Ok(format!(
            "{verb} INTO {}({}) VALUES ({}){end}",
            quoted(&self.table),
            names.join(", "),
            values.join(", ")
        ))
    }

    /// Sets the columns of the file in the row that has the key. The row itself stays, and so do those that refer to it.
    fn update(&self, file: &Path) -> Result<String> {
        let table = &self.table;
        let problem = |said: String| Failure::Usage(format!("--on-conflict replace: {said}"));
        if self.key.is_empty() {
            return Err(problem(format!(
                "the table {table} has no primary key, by which a row is found"
            )));
        }
        let is_there = |name: &String| self.columns.iter().any(|column| column.name == *name);
        if let Some(missing) = self.key.iter().find(|name| !is_there(name)) {
            return Err(problem(format!(
                "{} has no field for {missing}, a column of the primary key of {table}",
                display(file)
            )));
        }
        let others = self.columns.iter().filter(|column| !self.key.contains(&column.name));
        let set: Vec<String> = others
            .map(|column| quoted(&column.name))
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        let key: Vec<String> = self.key.iter().map(|name| quoted(name)).collect();
        let action = match set.is_empty() {
            true => "NOTHING".to_owned(),
            false => format!("UPDATE SET {}", set.join(", ")),
        };
        Ok(format!(" ON CONFLICT ({}) DO {action}", key.join(", ")))
    }
}

/// Whether the table may have an `ON CONFLICT` clause, which would overwrite rows or leave lines out without a word. Only
/// then the statement overrules it, since that overrules the clauses of triggers, too.
fn has_clause(tx: &WriteTx<'_>, table: &str) -> Result<bool> {
    let select = "SELECT sql LIKE '%conflict%' FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?1)";
    Ok(tx.optional_scalar(select, [table])?.unwrap_or(false))
}

/// The kind of a table or view, and whether it is STRICT.
fn table_kind(tx: &WriteTx<'_>, table: &str) -> Result<Option<(String, bool)>> {
    let select = "SELECT type, strict FROM pragma_table_list WHERE schema = 'main' AND lower(name) = lower(?1)";
    Ok(tx.optional(select, [table])?)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The types of the tables that are to be created.
pub(crate) struct Declared {
    given: Vec<(String, String)>,
    /// By table and column.
    inferred: BTreeMap<(String, String), &'static str>,
    primary_key: Vec<String>,
    /// Tables that this import has created.
    created: std::cell::RefCell<Vec<String>>,
}

const TYPES: [&str; 6] = ["INTEGER", "INT", "REAL", "TEXT", "BLOB", "ANY"];

impl Declared {
    /// `None` if no table is to be created.
    pub(crate) fn of(args: &ImportArgs, tables: &[String]) -> Result<Option<Self>> {
        if !args.create_table {
            return Ok(None);
        }
        let mut given = Vec::new();
        for (column, kind) in &args.types {
            let kind = kind.to_ascii_uppercase();
            if !TYPES.contains(&kind.as_str()) {
                return Err(Failure::Usage(format!(
                    "--types {column}={kind}: a STRICT table has the types {}",
                    TYPES.join(", ")
                )));
            }
            given.push((column.clone(), kind));
        }
        let inferred = match args.infer {
            true => infer(args, tables)?,
            false => BTreeMap::new(),
        };
        Ok(Some(Self {
            given,
            inferred,
            primary_key: args.primary_key.clone(),
            created: Default::default(),
        }))
    }

    /// Creates a table. Returns `false` if a file before this one has created it.
    pub(crate) fn create(&self, tx: &WriteTx<'_>, table: &str, header: &[Named]) -> Result<bool> {
        if self.created.borrow().iter().any(|other| other == table) {
            return Ok(false);
        }
        if let Some((kind, _)) = table_kind(tx, table)? {
            return Err(Failure::Other(format!(
                "there is a {kind} {table} already: leave --create-table out to add rows to it, or give another --table"
            )));
        }
        let known = |name: &String| header.iter().any(|named| named.name == *name);
        let named = self.given.iter().map(|(name, _)| name).chain(&self.primary_key);
        if let Some(missing) = named.clone().find(|name| !known(name)) {
            return Err(Failure::Other(format!(
                "no field is for the column {missing:?} of {table}"
            )));
        }
        let mut parts: Vec<String> = header.iter().map(|named| self.column(table, &named.name)).collect();
        if !self.primary_key.is_empty() {
            let key: Vec<String> = self.primary_key.iter().map(|name| quoted(name)).collect();
            parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        tx.execute_batch(&format!(
            "CREATE TABLE {}(\n    {}\n) STRICT",
            quoted(table),
            parts.join(",\n    ")
        ))?;
        self.created.borrow_mut().push(table.to_owned());
        Ok(true)
    }

    fn column(&self, table: &str, name: &str) -> String {
        let given = self.given.iter().find(|(column, _)| column == name);
        let inferred = || self.inferred.get(&(table.to_owned(), name.to_owned())).copied();
        let kind = given.map(|(_, kind)| kind.as_str()).or_else(inferred).unwrap_or("TEXT");
        format!("{} {kind}", quoted(name))
    }
}

/// Reads the files once, and finds the narrowest type of each column.
fn infer(args: &ImportArgs, tables: &[String]) -> Result<BTreeMap<(String, String), &'static str>> {
    let nulls = Nulls::new(&args.null);
    let mut kinds: BTreeMap<(String, String), Seen> = BTreeMap::new();
    for (file, table) in args.files.iter().zip(tables) {
        let mut source = Source::open(file, args)?;
        let header = source.mapped(&args.map, &args.skip)?;
        let mut seen: Vec<Seen> = header
            .iter()
            .map(|named| kinds.remove(&(table.clone(), named.name.clone())).unwrap_or_default())
            .collect();
        while source.next()? {
            // A line of another length is a bad line, of which the import tells.
            let Ok(fields) = source.fields() else { continue };
            for (named, seen) in header.iter().zip(&mut seen) {
                let field = &fields[named.field];
                if !nulls.has(field) {
                    seen.look(field);
                }
            }
        }
        kinds.extend(header.into_iter().map(|named| (table.clone(), named.name)).zip(seen));
    }
    Ok(kinds.into_iter().map(|(column, seen)| (column, seen.kind())).collect())
}

/// Up to it a REAL holds each integer.
const EXACT: u64 = 1 << 53;

/// What the values of a column were.
#[derive(Clone, Copy, Default)]
struct Seen {
    integer: bool,
    /// An integer that a REAL may not hold exactly.
    large: bool,
    real: bool,
    text: bool,
}

impl Seen {
    fn look(&mut self, field: &[u8]) {
        if self.text {
            return;
        }
        let text = std::str::from_utf8(field).ok();
        let text = text.filter(|text| !has_leading_zero(text));
        if let Some(number) = text.and_then(integer) {
            self.integer = true;
            self.large |= number.unsigned_abs() > EXACT;
            return;
        }
        match text {
            // A whole number that is too large would lose digits.
            Some(text) if real(text).is_some() && text.contains(['.', 'e', 'E']) => self.real = true,
            _ => self.text = true,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self { text: true, .. } => "TEXT",
            Self {
                real: true,
                large: true,
                ..
            } => "TEXT",
            Self { real: true, .. } => "REAL",
            Self { integer: true, .. } => "INTEGER",
            _ => "TEXT",
        }
    }
}

/// `007` and `+7` are names, and would lose their first characters as numbers.
fn has_leading_zero(text: &str) -> bool {
    let digits = text.trim_start_matches('-');
    text.trim() != text
        || text.starts_with('+')
        || digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(values: &[&str]) -> &'static str {
        let mut seen = Seen::default();
        values.iter().for_each(|value| seen.look(value.as_bytes()));
        seen.kind()
    }

    #[test]
    fn types_are_inferred() {
        assert_eq!(kind(&["1", "-20", "0"]), "INTEGER");
        assert_eq!(kind(&["1", "0.5", "-1e3"]), "REAL");
        assert_eq!(kind(&["1", "x"]), "TEXT");
        assert_eq!(kind(&["01234"]), "TEXT");
        assert_eq!(kind(&["+49", "12"]), "TEXT");
        assert_eq!(kind(&[]), "TEXT");
        assert_eq!(kind(&["9007199254740993"]), "INTEGER");
        assert_eq!(kind(&["9007199254740993", "0.5"]), "TEXT");
        assert_eq!(kind(&["0.5", "-9007199254740992"]), "REAL");
        assert_eq!(kind(&["99999999999999999999"]), "TEXT");
    }

    #[test]
    fn affinities_are_those_of_sqlite() {
        for (declared, affinity) in [
            ("INTEGER", Affinity::Integer),
            ("unsigned big int", Affinity::Integer),
            ("VARCHAR(20)", Affinity::Text),
            ("", Affinity::Text),
            ("BLOB", Affinity::Blob),
            ("DOUBLE PRECISION", Affinity::Real),
            ("DATETIME", Affinity::Numeric),
            ("NUMERIC(10,2)", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of(declared, false), affinity, "{declared}");
        }
        assert_eq!(Affinity::of("ANY", true), Affinity::Text);
    }
}
