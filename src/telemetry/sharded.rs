//! The usage of each call site or statement: a bounded table of entries by key.
//!
//! Each connection has its own [`Shard`], which only the thread that has the connection uses, with an entry for each
//! key that it has seen. So adding to an entry takes no lock and shares no cache line. The [`ShardedTable`] holds all
//! entries under its lock, for readers; a shard takes the lock only when it sees a key for the first time. The entries
//! of a dropped shard are reused by the next shard that needs their key, so a key never has more entries than there are
//! connections at a time.
//!
//! The table keeps the first keys that arrive, up to its bound; later keys share one entry per shard, which has no key.
//! A key that is text should be counted by reference (`Arc<str>`): all shards then share the table's copy.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Index;

use crate::runtime::sync::{Arc, Mutex};

type Entries<K, E> = HashMap<Option<K>, Vec<Arc<E>>>;

pub(crate) struct ShardedTable<K, E> {
    /// The maximum number of keys.
    max_keys: usize,
    /// All entries by key; `None` is the key of the shared entries past the bound.
    all: Mutex<Entries<K, E>>,
}

impl<K: Eq + Hash + Clone, E: Default> ShardedTable<K, E> {
    pub(crate) fn new(max_keys: usize) -> Self {
        Self {
            max_keys,
            all: Mutex::default(),
        }
    }

    /// Whether the table keeps anything.
    pub(crate) fn is_on(&self) -> bool {
        self.max_keys > 0
    }

    /// All entries of each key; `None` is the key of the shared entries past the bound.
    pub(crate) fn entries(&self) -> Vec<(Option<K>, Vec<Arc<E>>)> {
        let all = self.all.lock();
        all.iter()
            .map(|(key, entries)| (key.clone(), entries.clone()))
            .collect()
    }

    /// Returns an entry that no other shard adds to, and the table's own copy of the key; `None` if the table is full.
    fn acquire_entry(&self, key: Option<K>) -> Option<(Option<K>, Arc<E>)> {
        let mut all = self.all.lock();
        let keys = all.len() - usize::from(all.contains_key(&None));
        if key.is_some() && keys >= self.max_keys && !all.contains_key(&key) {
            return None;
        }
        let key = all.get_key_value(&key).map_or(key, |(known, _)| known.clone());
        let entries = all.entry(key.clone()).or_default();
        // The table holds the only reference: the entry's shard was dropped.
        if let Some(free) = entries.iter().find(|entry| Arc::strong_count(entry) == 1) {
            return Some((key, Arc::clone(free)));
        }
        let entry = Arc::<E>::default();
        entries.push(Arc::clone(&entry));
        Some((key, entry))
    }
}

/// The entries of one connection.
pub(crate) struct Shard<K, E> {
    table: Arc<ShardedTable<K, E>>,
    places: HashMap<K, usize>,
    /// The shared entry past the bound has no key.
    entries: Vec<(Option<K>, Arc<E>)>,
    others: Option<usize>,
    /// The entry of the last lookup, which is usually also that of the next.
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

    /// `None` if the table keeps nothing.
    pub(crate) fn if_on(table: &Arc<ShardedTable<K, E>>) -> Option<Self> {
        table.is_on().then(|| Self::new(table))
    }

    /// Returns the place of the entry for `key`; `None` if the table keeps nothing.
    pub(crate) fn find<Q>(&mut self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q> + for<'q> From<&'q Q>,
        Q: Eq + Hash + ?Sized,
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
            None => self.meet(K::from(key))?,
        };
        self.last = place;
        Some(place)
    }

    /// Adds a key that has no entry in this shard yet.
    fn meet(&mut self, key: K) -> Option<usize> {
        if let Some((Some(key), entry)) = self.table.acquire_entry(Some(key)) {
            let place = self.keep(Some(key.clone()), entry);
            self.places.insert(key, place);
            return Some(place);
        }
        if self.others.is_none() {
            let (_, entry) = self.table.acquire_entry(None)?;
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
    fn keys_past_bound_share_one_entry_per_shard() {
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
