//! The jobs of a queue and of its overflow line, in the order of their arrival.
//!
//! Plain data, guarded by the queue's lock. It is a doubly linked list whose entries live in one vector: an entry never
//! moves, and the entry freed last is reused first. Each operation, including a removal from the middle, takes the same
//! few steps at any length. So the lock is never held longer because many jobs wait or were withdrawn.
//!
//! The first `capacity` jobs are the queue, all others the line. `first_in_line` is the entry where the line begins. It
//! advances by one entry at a time: each removal from the queue admits exactly one job from the line.
//!
//! Callers and workers are on different cores, and each job moves its entry from one core's cache to the other's, and the
//! head of the list with the lock. So both are small: places in the vector have 32 bits.

use std::mem;

const NONE: u32 = u32::MAX;

/// The place of a job in the list. A number is never reused, so the ticket of a job that has left finds nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ticket {
    entry: u32,
    number: u64,
}

struct Node<T> {
    /// `None` if the entry is free.
    item: Option<T>,
    number: u64,
    before: u32,
    /// In a free entry: the next free entry.
    after: u32,
}

pub(super) struct List<T> {
    entries: Vec<Node<T>>,
    first: u32,
    last: u32,
    first_in_line: u32,
    free: u32,
    length: usize,
    capacity: usize,
    /// Jobs ever queued. This is also the number of the next job.
    pushed: u64,
    /// Entries read or written.
    #[cfg(test)]
    touched: u64,
}

/// A removed job, and the job that moves from the line into the queue in its place.
pub(super) struct Removed<'a, T> {
    pub(super) item: T,
    pub(super) moves_up: Option<&'a T>,
}

impl<T> List<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::new(),
            first: NONE,
            last: NONE,
            first_in_line: NONE,
            free: NONE,
            length: 0,
            capacity,
            pushed: 0,
            #[cfg(test)]
            touched: 0,
        }
    }

    /// Number of jobs, queued or in line.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether the next job has to join the line.
    pub(super) fn is_full(&self) -> bool {
        self.length >= self.capacity
    }

    /// Jobs ever queued.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    pub(super) fn push(&mut self, item: T) -> Ticket {
        let number = self.pushed;
        self.pushed += 1;
        let entry = Node {
            item: Some(item),
            number,
            before: self.last,
            after: NONE,
        };
        let index = match self.free {
            NONE => {
                let index = u32::try_from(self.entries.len()).expect("memory is full long before");
                self.entries.push(entry);
                index
            }
            free => {
                self.free = self.entry(free).after;
                *self.entry(free) = entry;
                free
            }
        };
        match self.last {
            NONE => self.first = index,
            last => self.entry(last).after = index,
        }
        self.last = index;
        if self.is_full() && self.first_in_line == NONE {
            self.first_in_line = index;
        }
        self.length += 1;
        Ticket { entry: index, number }
    }

    /// The first job and its number.
    pub(super) fn first(&self) -> Option<(&T, u64)> {
        let entry = self.entries.get(self.first as usize)?;
        Some((entry.item.as_ref()?, entry.number))
    }

    pub(super) fn pop(&mut self) -> Option<Removed<'_, T>> {
        match self.first {
            NONE => None,
            first => self.unlink(first),
        }
    }

    /// Removes the job with that ticket, if it is still in the list.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Removed<'_, T>> {
        let entry = self.entries.get(ticket.entry as usize)?;
        if entry.number != ticket.number {
            return None;
        }
        self.unlink(ticket.entry)
    }

    fn unlink(&mut self, index: u32) -> Option<Removed<'_, T>> {
        let free = self.free;
        let entry = self.entry(index);
        let item = entry.item.take()?;
        let (number, before, after) = (entry.number, entry.before, entry.after);
        entry.after = free;
        self.free = index;
        match before {
            NONE => self.first = after,
            before => self.entry(before).after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.entry(after).before = before,
        }
        self.length -= 1;
        let line = self.first_in_line;
        let mut moves_up = None;
        if line == index {
            self.first_in_line = after;
        } else if line != NONE && number < self.entry(line).number {
            self.first_in_line = self.entry(line).after;
            moves_up = self.entries[line as usize].item.as_ref();
        }
        Some(Removed { item, moves_up })
    }

    /// Number of entries, including free ones.
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// The jobs in a range of entries, in no particular order.
    pub(super) fn in_entries(&self, from: usize, most: usize) -> impl Iterator<Item = &T> {
        let entries = self.entries.iter().skip(from).take(most);
        entries.filter_map(|entry| entry.item.as_ref())
    }

    /// Removes all jobs. The iterator sorts and drops them, so the caller can do both without the lock.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        let mut entries = mem::take(&mut self.entries);
        (self.first, self.last, self.first_in_line, self.free) = (NONE, NONE, NONE, NONE);
        self.length = 0;
        let mut sorted = false;
        std::iter::from_fn(move || {
            if !mem::replace(&mut sorted, true) {
                entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.number));
            }
            entries.pop()
        })
        .filter_map(|entry| entry.item)
    }

    fn entry(&mut self, index: u32) -> &mut Node<T> {
        #[cfg(test)]
        {
            self.touched += 1;
        }
        &mut self.entries[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list as a vector: the expected behaviour, without regard to time.
    struct Model {
        capacity: usize,
        items: Vec<u32>,
    }

    impl Model {
        fn remove(&mut self, item: u32) -> Option<(u32, Option<u32>)> {
            let place = self.items.iter().position(|other| *other == item)?;
            let moves_up = self.items.get(self.capacity).copied().filter(|_| place < self.capacity);
            Some((self.items.remove(place), moves_up))
        }
    }

    fn told(removed: Option<Removed<'_, u32>>) -> Option<(u32, Option<u32>)> {
        removed.map(|removed| (removed.item, removed.moves_up.copied()))
    }

    #[test]
    fn list_behaves_like_a_vector() {
        for capacity in 1..5 {
            let mut list = List::new(capacity);
            let mut tickets = Vec::new();
            let mut model = Model {
                capacity,
                items: Vec::new(),
            };
            let mut random = 7_u32;
            for step in 0..4_000 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // The longer the list, the likelier a removal.
                match (random >> 16) % 16 {
                    choice if choice as usize >= model.items.len() => {
                        assert_eq!(list.is_full(), model.items.len() >= capacity);
                        tickets.push(list.push(step));
                        model.items.push(tickets.len() as u32 - 1);
                        assert_eq!(tickets.len() as u64, list.pushed());
                    }
                    choice if choice % 2 == 0 => {
                        let first = model.items[0];
                        let expected = model.remove(first);
                        let popped = list.pop().map(|removed| (removed.item, removed.moves_up.copied()));
                        assert_eq!(popped.is_some(), expected.is_some());
                        assert_eq!(popped.and_then(|p| p.1).is_some(), expected.and_then(|e| e.1).is_some());
                    }
                    _ => {
                        let item = (random >> 8) % tickets.len() as u32;
                        let expected = model.remove(item);
                        let removed = told(list.remove(tickets[item as usize]));
                        assert_eq!(removed.is_some(), expected.is_some(), "{item}");
                        assert_eq!(
                            removed.and_then(|r| r.1).is_some(),
                            expected.and_then(|e| e.1).is_some()
                        );
                    }
                }
                assert_eq!(list.len(), model.items.len());
                let first = list.first().map(|(_, number)| number as u32);
                assert_eq!(first, model.items.first().copied());
            }
            let rest: Vec<_> = list.take_all().collect();
            assert!(rest.is_sorted(), "in the order in which they came");
            assert_eq!(rest.len(), model.items.len());
            assert!(list.is_empty() && list.pop().is_none());
        }
    }

    /// With 300,000 jobs in line, of which all but the last were withdrawn, one removal moved 100,000 jobs for each of
    /// them, which held the queue's lock for 4.6 s.
    #[test]
    fn operations_touch_few_entries_after_many_withdrawals() {
        let (capacity, line) = (1_000, 3_000);
        let mut list = List::new(capacity);
        let mut most = 0;
        let mut count = |list: &mut List<u32>, operation: &mut dyn FnMut(&mut List<u32>)| {
            list.touched = 0;
            operation(list);
            most = most.max(list.touched);
        };
        let mut tickets = Vec::new();
        for item in 0..(capacity + line) as u32 {
            count(&mut list, &mut |list| tickets.push(list.push(item)));
        }
        for ticket in tickets[capacity..].iter().rev().skip(1) {
            count(&mut list, &mut |list| assert!(list.remove(*ticket).is_some()));
        }
        let last = (capacity + line - 1) as u32;
        count(&mut list, &mut |list| {
            assert_eq!(told(list.pop()), Some((0, Some(last))))
        });
        for ticket in tickets[1..capacity].iter().step_by(2) {
            count(&mut list, &mut |list| assert!(list.remove(*ticket).is_some()));
        }
        while !list.is_empty() {
            count(&mut list, &mut |list| assert!(list.pop().is_some()));
        }
        assert!(most <= 6, "an operation touched {most} entries");
    }

    #[test]
    fn ticket_of_removed_job_finds_nothing() {
        let mut list = List::new(1);
        let first = list.push('a');
        assert!(list.pop().is_some());
        let second = list.push('b');
        assert_eq!(first.entry, second.entry, "the entry is used again");
        assert!(list.remove(first).is_none());
        list.take_all().for_each(drop);
        assert!(list.remove(second).is_none());
    }
}
