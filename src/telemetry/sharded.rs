//! What each call site costs, or each statement: a table of entries under keys, bounded in number.
//!
//! Each connection has a [`Shard`] of its own, which only the thread that has the connection uses, with an entry for
//! each key that it has met. So adding to an entry takes no lock and shares no cache line. The [`ShardedTable`] has all
//! entries, under its lock, for those who look; a shard takes it only when it meets a key for the first time. Entries
//! of a shard that has gone are given to the next that asks for their key, so there are never more of one key than
//! connections at a time.
//!
//! The first keys that come are kept, up to a number; what comes after is one entry of each shard, under no key.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Index;

use crate::runtime::sync::{Arc, Mutex};

type Entries<K, E> = HashMap<Option<K>, Vec<Arc<E>>>;

pub(crate) struct ShardedTable<K, E> {
    /// Keys at most.
    max_keys: usize,
    /// Those without a key are the others.
    all: Mutex<Entries<K, E>>,
}

impl<K: Eq + Hash + Clone, E: Default> ShardedTable<K, E> {
    pub(crate) fn new(max_keys: usize) -> Self {
        Self {
            max_keys,
            all: Mutex::default(),
        }
    }

    /// Whether it keeps anything.
    pub(crate) fn is_on(&self) -> bool {
        self.max_keys > 0
    }

    /// All entries of each key; `None` are the others.
    pub(crate) fn entries(&self) -> Vec<(Option<K>, Vec<Arc<E>>)> {
        let all = self.all.lock();
        all.iter()
            .map(|(key, entries)| (key.clone(), entries.clone()))
            .collect()
    }

    /// An entry that nobody else adds to; `None` if there are too many keys already.
    fn acquire_entry(&self, key: Option<K>) -> Option<Arc<E>> {
        let mut all = self.all.lock();
        let keys = all.len() - usize::from(all.contains_key(&None));
        if key.is_some() && keys >= self.max_keys && !all.contains_key(&key) {
            return None;
        }
        let entries = all.entry(key).or_default();
        // The table's own is the only one: its shard has gone.
        if let Some(free) = entries.iter().find(|entry| Arc::strong_count(entry) == 1) {
            return Some(Arc::clone(free));
        }
        let entry = Arc::<E>::default();
        entries.push(Arc::clone(&entry));
        Some(entry)
    }
}

/// The entries of one connection.
pub(crate) struct Shard<K, E> {
    table: Arc<ShardedTable<K, E>>,
    places: HashMap<K, usize>,
    /// The others have no key.
    entries: Vec<(Option<K>, Arc<E>)>,
    others: Option<usize>,
    /// Which was asked for last: mostly it is asked for again.
    last: usize,
}

impl<K: Eq + Hash + Clone, E: Default> Shard<K, E> {
    pub(crate) fn new(table: &Arc<ShardedTable<K, E>>) -> Self {
        Self {
            table: Arc::clone(table),
            places: HashMap::new(),
            entries: Vec::new(),
            others: None,
            last: 0,
        }
    }

    /// None if nothing is kept.
    pub(crate) fn if_on(table: &Arc<ShardedTable<K, E>>) -> Option<Self> {
        table.is_on().then(|| Self::new(table))
    }

    /// The place of the entry for that key; `None` if nothing is kept.
    pub(crate) fn find<Q>(&mut self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if let Some((Some(last), _)) = self.entries.get(self.last)
            && last.borrow() == key
        {
            return Some(self.last);
        }
        if !self.table.is_on() {
            return None;
        }
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => self.meet(key.to_owned())?,
        };
        self.last = place;
        Some(place)
    }

    /// A key that has no entry here yet.
    fn meet(&mut self, key: K) -> Option<usize> {
        if let Some(entry) = self.table.acquire_entry(Some(key.clone())) {
            let place = self.keep(Some(key.clone()), entry);
            self.places.insert(key, place);
            return Some(place);
        }
        if self.others.is_none() {
            let entry = self.table.acquire_entry(None)?;
            self.others = Some(self.keep(None, entry));
        }
        self.others
    }

    fn keep(&mut self, key: Option<K>, entry: Arc<E>) -> usize {
        self.entries.push((key, entry));
        self.entries.len() - 1
    }
}

impl<K, E> Index<usize> for Shard<K, E> {
    type Output = E;

    fn index(&self, place: usize) -> &E {
        &self.entries[place].1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    type Sums = ShardedTable<String, AtomicU64>;

    fn add(shard: &mut Shard<String, AtomicU64>, key: &str) {
        let place = shard.find(key).unwrap();
        shard[place].fetch_add(1, Relaxed);
    }

    fn sum(table: &Sums, key: Option<&str>) -> u64 {
        let of_key = |(found, _): &(Option<String>, _)| found.as_deref() == key;
        let entries = table
            .entries()
            .into_iter()
            .filter(of_key)
            .flat_map(|(_, entries)| entries);
        entries.map(|entry| entry.load(Relaxed)).sum()
    }

    #[test]
    fn shards_add_up() {
        let table = Arc::new(Sums::new(10));
        let (mut one, mut two) = (Shard::new(&table), Shard::new(&table));
        for key in ["a", "a", "b", "a"] {
            add(&mut one, key);
        }
        add(&mut two, "a");
        assert_eq!((sum(&table, Some("a")), sum(&table, Some("b"))), (4, 1));
    }

    #[test]
    fn keys_past_the_bound_share_one_entry_per_shard() {
        let table = Arc::new(Sums::new(2));
        let (mut one, mut two) = (Shard::new(&table), Shard::new(&table));
        for key in ["a", "b", "c", "d", "a"] {
            add(&mut one, key);
        }
        for key in ["c", "b", "d"] {
            add(&mut two, key);
        }
        assert_eq!((sum(&table, Some("a")), sum(&table, Some("b"))), (2, 2));
        assert_eq!(sum(&table, None), 4);
        assert_eq!(table.entries().len(), 3);
    }

    #[test]
    fn entries_of_a_dropped_shard_are_reused() {
        let table = Arc::new(Sums::new(10));
        for _ in 0..5 {
            add(&mut Shard::new(&table), "a");
        }
        assert_eq!(table.entries()[0].1.len(), 1);
        assert_eq!(sum(&table, Some("a")), 5);
    }

    #[test]
    fn table_of_size_zero_keeps_nothing() {
        let table = Arc::new(Sums::new(0));
        assert_eq!(Shard::new(&table).find("a"), None);
    }
}
