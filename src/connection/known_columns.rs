//! Where the columns of a value are in the result of a statement, kept from one query to the next.
//!
//! To find ten columns by name takes some 5,000 instructions, 3,000 of them in SQLite, and a read of one row 13,000. Most
//! services run a few statements again and again.
//!
//! The names of a compiled statement never change, and SQLite calls the authorizer for each statement that it compiles,
//! also for one that it compiles again after a change of the schema. So what was found holds as long as the authorizer
//! has not been called: the same text is the same compiled statement, or one with the same columns. A statement has to
//! have made its first step before it is asked for here, since that is when SQLite compiles it again.
//!
//! A closure that has the connection itself may take the authorizer away, so it does not come here
//! (`transaction/values.rs`); the connection is replaced after such a closure.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::runtime::sync::{Arc, Mutex};

/// How many are kept, a power of two.
const PLACES: usize = 32;

/// The columns of a value, in the order in which it reads them; `None` is one that the result does not have.
pub(crate) type Columns = Arc<[Option<usize>]>;

#[derive(Default)]
pub(crate) struct KnownColumns {
    /// Number of actions that the authorizer was asked about.
    compiled: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The number when they were found.
    compiled: u64,
    /// Empty, or [`PLACES`].
    places: Vec<Option<Known>>,
}

struct Known {
    value: usize,
    sql: Box<str>,
    columns: Columns,
}

impl KnownColumns {
    /// SQLite compiles a statement. Only the thread that uses the connection calls it.
    pub(super) fn compiles(&self) {
        self.compiled
            .store(self.compiled.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The columns of a value in the result of that text, which has made its first step. `value` is the address of the
    /// function that finds them. One that runs the same code finds the same columns, so it may have the same address.
    pub(crate) fn of<E>(
        &self,
        value: usize,
        sql: &str,
        find: impl FnOnce() -> Result<Columns, E>,
    ) -> Result<Columns, E> {
        let place = ((value / 16) ^ sql.len()) % PLACES;
        let compiled = self.compiled.load(Relaxed);
        let kept = self.kept.lock();
        if kept.compiled == compiled
            && let Some(Some(known)) = kept.places.get(place)
            && known.value == value
            && *known.sql == *sql
        {
            return Ok(Arc::clone(&known.columns));
        }
        drop(kept);
        let columns = find()?;
        self.keep(place, compiled, value, sql, &columns);
        Ok(columns)
    }

    #[cold]
    fn keep(&self, place: usize, compiled: u64, value: usize, sql: &str, columns: &Columns) {
        let mut kept = self.kept.lock();
        if kept.compiled != compiled || kept.places.is_empty() {
            kept.compiled = compiled;
            kept.places.clear();
            kept.places.resize_with(PLACES, || None);
        }
        kept.places[place] = Some(Known {
            value,
            sql: sql.into(),
            columns: Arc::clone(columns),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Columns, KnownColumns};

    #[test]
    fn columns_are_found_again_once_a_statement_is_compiled() {
        let known = KnownColumns::default();
        let found = |at: usize| move || Ok::<Columns, ()>([Some(at)].into());
        let never = || Err(());
        assert_eq!(*known.of(16, "a", found(1)).unwrap(), [Some(1)]);
        assert_eq!(*known.of(16, "a", never).unwrap(), [Some(1)]);
        assert_eq!(known.of(16, "b", never), Err(()));
        assert_eq!(known.of(32, "a", never), Err(()));
        known.compiles();
        assert_eq!(known.of(16, "a", never), Err(()));
        assert_eq!(*known.of(16, "a", found(2)).unwrap(), [Some(2)]);
        assert_eq!(*known.of(16, "a", never).unwrap(), [Some(2)]);
    }
}
