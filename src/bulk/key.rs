//! The keys by which a job walks over a table: the rowid, or the primary key of a table without one; and values as they
//! are.

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Row, ToSql};

/// The key of a row.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Rowid(i64),
    /// The columns of the primary key, in their order there.
    Columns(Box<[Part]>),
}

/// A value as SQLite has it: a text need not be UTF-8.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Part {
    Null,
    Integer(i64),
    /// Its bits.
    Real(u64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl ToSql for Part {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Part::Null => ValueRef::Null,
            Part::Integer(value) => ValueRef::Integer(*value),
            Part::Real(bits) => ValueRef::Real(f64::from_bits(*bits)),
            Part::Text(text) => ValueRef::Text(text),
            Part::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Part::Text(bytes) | Part::Blob(bytes) => bytes.len(),
            Part::Null | Part::Integer(_) | Part::Real(_) => 8,
        }
    }

    pub(super) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Self> {
        Ok(match row.get_ref(at)? {
            ValueRef::Null => Part::Null,
            ValueRef::Integer(value) => Part::Integer(value),
            ValueRef::Real(value) => Part::Real(value.to_bits()),
            ValueRef::Text(text) => Part::Text(text.to_vec()),
            ValueRef::Blob(bytes) => Part::Blob(bytes.to_vec()),
        })
    }
}

/// How a table's rows are found again.
pub(super) enum KeyColumns {
    /// By this name of the rowid.
    Rowid(String),
    /// By the columns of the primary key, which is this index.
    Declared { index: String, columns: Vec<KeyColumn> },
}

#[derive(Clone)]
pub(super) struct KeyColumn {
    /// In quotes.
    pub(super) name: String,
    /// In quotes: that of the index, which need not be that of the column.
    pub(super) collation: String,
    pub(super) descends: bool,
}

impl KeyColumn {
    fn collated(&self) -> String {
        format!("{} COLLATE {}", self.name, self.collation)
    }

    fn after(&self) -> char {
        if self.descends { '<' } else { '>' }
    }
}

impl KeyColumns {
    /// Number of parameters of a key.
    pub(super) fn count(&self) -> usize {
        match self {
            KeyColumns::Rowid(_) => 1,
            KeyColumns::Declared { columns, .. } => columns.len(),
        }
    }

    /// What a query selects.
    pub(super) fn list(&self) -> String {
        match self {
            KeyColumns::Rowid(name) => name.clone(),
            KeyColumns::Declared { columns, .. } => {
                let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                names.join(", ")
            }
        }
    }

    /// Makes a query read the table in the order of the key.
    pub(super) fn indexed(&self) -> String {
        match self {
            KeyColumns::Rowid(_) => "NOT INDEXED".to_owned(),
            KeyColumns::Declared { index, .. } => format!("INDEXED BY {index}"),
        }
    }

    pub(super) fn order(&self, backwards: bool) -> String {
        let direction = |descends: bool| if descends != backwards { " DESC" } else { "" };
        match self {
            KeyColumns::Rowid(name) => format!("{name}{}", direction(false)),
            KeyColumns::Declared { columns, .. } => {
                let terms: Vec<String> = columns
                    .iter()
                    .map(|column| format!("{}{}", column.collated(), direction(column.descends)))
                    .collect();
                terms.join(", ")
            }
        }
    }

    /// Whether a row has the key whose first parameter has that number.
    pub(super) fn is(&self, first: usize) -> String {
        match self {
            KeyColumns::Rowid(name) => format!("{name} = ?{first}"),
            KeyColumns::Declared { columns, .. } => {
                let terms: Vec<String> = columns
                    .iter()
                    .zip(first..)
                    .map(|(column, number)| format!("{} = ?{number}", column.collated()))
                    .collect();
                terms.join(" AND ")
            }
        }
    }

    /// Whether a row is behind that key.
    pub(super) fn is_after(&self, first: usize) -> String {
        match self {
            KeyColumns::Rowid(name) => format!("{name} > ?{first}"),
            KeyColumns::Declared { columns, .. } => compared(columns, first, false),
        }
    }

    /// Whether a row is that key or before it.
    pub(super) fn is_up_to(&self, first: usize) -> String {
        match self {
            KeyColumns::Rowid(name) => format!("{name} <= ?{first}"),
            KeyColumns::Declared { columns, .. } => compared(columns, first, true),
        }
    }

    /// The key in the first columns of a row.
    pub(super) fn read(&self, row: &Row<'_>) -> rusqlite::Result<Key> {
        match self {
            KeyColumns::Rowid(_) => row.get(0).map(Key::Rowid),
            KeyColumns::Declared { columns, .. } => {
                let parts: rusqlite::Result<_> = (0..columns.len()).map(|at| Part::read(row, at)).collect();
                parts.map(Key::Columns)
            }
        }
    }
}

/// Compares the row with a key, by row values if all columns have one direction.
fn compared(columns: &[KeyColumn], first: usize, up_to: bool) -> String {
    let sign = |column: &KeyColumn| match (column.after(), up_to) {
        (after, false) => after,
        ('>', true) => '<',
        (_, true) => '>',
    };
    let or_equal = if up_to { "=" } else { "" };
    let Some(leading) = columns.first() else {
        return "1".to_owned();
    };
    if columns.iter().all(|column| column.descends == leading.descends) {
        let names: Vec<String> = columns.iter().map(KeyColumn::collated).collect();
        let numbers: Vec<String> = (first..first + columns.len())
            .map(|number| format!("?{number}"))
            .collect();
        return format!(
            "({}) {}{or_equal} ({})",
            names.join(", "),
            sign(leading),
            numbers.join(", ")
        );
    }
    let last = columns.len() - 1;
    let mut nested = String::new();
    for (at, column) in columns.iter().enumerate().rev() {
        let (name, number, sign) = (column.collated(), first + at, sign(column));
        nested = if at == last {
            format!("{name} {sign}{or_equal} ?{number}")
        } else {
            format!("{name} {sign} ?{number} OR {name} = ?{number} AND ({nested})")
        };
    }
    // The index finds the first column.
    format!("{} {}= ?{first} AND ({nested})", leading.collated(), sign(leading))
}

impl Key {
    /// Its parameters.
    pub(super) fn params(&self) -> Vec<&dyn ToSql> {
        match self {
            Key::Rowid(rowid) => vec![rowid],
            Key::Columns(parts) => parts.iter().map(|part| part as &dyn ToSql).collect(),
        }
    }

    /// The size of its values in bytes, as that of a row.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Key::Rowid(_) => 8,
            Key::Columns(parts) => parts.iter().map(Part::bytes).sum(),
        }
    }

    /// As the table of cursors keeps it: a rowid as it is; columns as a blob, each with its type, and a text or blob with
    /// its length.
    pub(super) fn to_value(&self) -> Value {
        let parts = match self {
            Key::Rowid(rowid) => return Value::Integer(*rowid),
            Key::Columns(parts) => parts,
        };
        let mut encoded = Vec::new();
        for part in parts {
            match part {
                // Only damage makes a key NULL, and it is equal to no key.
                Part::Null => push_bytes(&mut encoded, b'n', &[]),
                Part::Integer(value) => {
                    encoded.push(b'i');
                    encoded.extend(value.to_be_bytes());
                }
                Part::Real(bits) => {
                    encoded.push(b'r');
                    encoded.extend(bits.to_be_bytes());
                }
                Part::Text(text) => push_bytes(&mut encoded, b't', text),
                Part::Blob(bytes) => push_bytes(&mut encoded, b'b', bytes),
            }
        }
        Value::Blob(encoded)
    }

    /// `None` if it is no key.
    pub(super) fn from_value(value: Value) -> Option<Self> {
        let encoded = match value {
            Value::Integer(rowid) => return Some(Key::Rowid(rowid)),
            Value::Blob(encoded) => encoded,
            _ => return None,
        };
        let mut rest = encoded.as_slice();
        let mut parts = Vec::new();
        while let Some((kind, more)) = rest.split_first() {
            let (number, more) = more.split_first_chunk()?;
            let part = match kind {
                b'i' => Part::Integer(i64::from_be_bytes(*number)),
                b'r' => Part::Real(u64::from_be_bytes(*number)),
                b't' | b'b' | b'n' => {
                    let length = usize::try_from(u64::from_be_bytes(*number)).ok()?;
                    let (bytes, more) = more.split_at_checked(length)?;
                    rest = more;
                    parts.push(match kind {
                        b'n' => Part::Null,
                        b't' => Part::Text(bytes.to_vec()),
                        _ => Part::Blob(bytes.to_vec()),
                    });
                    continue;
                }
                _ => return None,
            };
            rest = more;
            parts.push(part);
        }
        Some(Key::Columns(parts.into()))
    }
}

fn push_bytes(encoded: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    encoded.push(kind);
    encoded.extend((bytes.len() as u64).to_be_bytes());
    encoded.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_and_read_back() {
        let all = [
            Key::Rowid(i64::MIN),
            Key::Columns([Part::Text(b"it's\0\xff".to_vec())].into()),
            Key::Columns(
                [
                    Part::Integer(-1),
                    Part::Real((-0.5f64).to_bits()),
                    Part::Text(Vec::new()),
                    Part::Null,
                    Part::Blob(vec![0, 255]),
                ]
                .into(),
            ),
        ];
        for key in all {
            assert!(Key::from_value(key.to_value()) == Some(key));
        }
        for value in [Value::Null, Value::Text("i".into()), Value::Blob(b"i".to_vec())] {
            assert!(Key::from_value(value).is_none());
        }
        let cut = Value::Blob(b"t\0\0\0\0\0\0\0\x09abc".to_vec());
        assert!(Key::from_value(cut).is_none());
    }

    #[test]
    fn directions_that_differ_are_compared_column_by_column() {
        let column = |name: &str, descends| KeyColumn {
            name: name.into(),
            collation: "BINARY".into(),
            descends,
        };
        let one_way = [column("a", true), column("b", true)];
        assert_eq!(
            compared(&one_way, 3, false),
            "(a COLLATE BINARY, b COLLATE BINARY) < (?3, ?4)"
        );
        let mixed = [column("a", false), column("b", true)];
        assert_eq!(
            compared(&mixed, 1, true).replace(" COLLATE BINARY", ""),
            "a <= ?1 AND (a < ?1 OR a = ?1 AND (b >= ?2))"
        );
    }
}
