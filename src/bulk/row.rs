//! Rows of a bulk insert: values that the writer thread binds by reference, so that a slice that was rolled back can run
//! once more.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::OnViolation;
use super::key::Key;

/// One row of [`Bulk::insert`](super::Bulk::insert): the values of the statement's parameters, `?1` first.
///
/// Tuples of up to 16 values, arrays and `Vec`s are rows. The values are bound by the writer thread.
pub trait BulkRow: Send + 'static {
    /// Calls `f` with the values.
    fn with_values<T>(&self, f: impl FnOnce(&[&dyn ToSql]) -> T) -> T
    where
        Self: Sized;

    /// The key of the row, of a job that walks over a table.
    #[doc(hidden)]
    fn key(&self) -> Option<Key> {
        None
    }

    /// The number of its line, of a row of a file.
    #[doc(hidden)]
    fn line(&self) -> Option<u64> {
        None
    }

    /// Why a line is no row, and what the job does with it.
    #[doc(hidden)]
    fn problem(&self) -> Option<(&str, OnViolation)> {
        None
    }
}

impl<V: ToSql + Send + 'static, const N: usize> BulkRow for [V; N] {
    fn with_values<T>(&self, f: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
        f(&self.each_ref().map(|value| value as &dyn ToSql))
    }
}

impl<V: ToSql + Send + 'static> BulkRow for Vec<V> {
    fn with_values<T>(&self, f: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
        let values: Vec<&dyn ToSql> = self.iter().map(|value| value as &dyn ToSql).collect();
        f(&values)
    }
}

macro_rules! tuples {
    ($(($($name:ident $at:tt),+))+) => { $(
        impl<$($name: ToSql + Send + 'static),+> BulkRow for ($($name,)+) {
            fn with_values<T>(&self, f: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
                f(&[$(&self.$at),+])
            }
        }
    )+ };
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15)
}

/// The size of the values in bytes: 8 for a number, the length of a text or a blob.
pub(super) fn bytes(row: &impl BulkRow) -> usize {
    row.with_values(|values| values.iter().map(|value| bytes_of(*value)).sum())
}

fn bytes_of(value: &dyn ToSql) -> usize {
    // An error comes again, and is told, as the value is bound.
    let Ok(output) = value.to_sql() else { return 0 };
    let value = match &output {
        ToSqlOutput::Borrowed(value) => *value,
        ToSqlOutput::Owned(value) => ValueRef::from(value),
        _ => return 8,
    };
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}
