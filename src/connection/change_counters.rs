//! `last_insert_rowid`, `changes` and `total_changes`, as one closure sees them.
//!
//! SQLite keeps all three per connection, which many closures share. Each closure must see them as on a fresh
//! connection: 0 until the closure changes something itself. The rowid is set to 0 before each closure. The other two
//! cannot be set, so [`ChangeCounters`] stores the total at the closure's start, and the SQL functions
//! (`c_api::define_change_functions`) and the methods of `WriteTx` subtract it.
//!
//! SQLite does not report whether a statement inserted a row that has a rowid: without one, `last_insert_rowid` keeps
//! its value, and with one, it may be set to the same value again. So before an `INSERT` whose rowid the caller wants,
//! the connection's rowid is set to a mask: a random number out of 2^63 negative ones. If the mask is still there
//! afterwards, no rowid was set. Meanwhile the SQL function returns the value from before, because the statement
//! itself, a trigger or a column's DEFAULT may call it.
//!
//! Only the thread that has the connection uses the counters; the atomics exist because, as far as the compiler knows,
//! SQL functions may be called from any thread.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use rusqlite::Connection;

use super::c_api::set_last_insert_rowid;

pub(crate) struct ChangeCounters {
    /// `total_changes` of the connection at the closure's start.
    base: AtomicI64,
    /// Whether a mask is set.
    masked: AtomicBool,
    /// The mask: the connection's rowid while `masked`, unless a statement set another.
    mask: AtomicI64,
    /// The rowid that the mask stands for.
    behind: AtomicI64,
    /// State of the random generator.
    random: AtomicU64,
}

impl ChangeCounters {
    pub(crate) fn new() -> Self {
        Self {
            base: AtomicI64::new(0),
            masked: AtomicBool::new(false),
            mask: AtomicI64::new(0),
            behind: AtomicI64::new(0),
            random: AtomicU64::new(RandomState::new().build_hasher().finish()),
        }
    }

    /// Starts a closure. Returns the connection's `total_changes`.
    pub(crate) fn restart(&self, conn: &Connection) -> u64 {
        set_last_insert_rowid(conn, 0);
        let total = conn.total_changes();
        self.base.store(signed(total), Relaxed);
        total
    }

    /// The closure's `last_insert_rowid`, given the connection's.
    pub(crate) fn rowid(&self, rowid: i64) -> i64 {
        if self.masked.load(Relaxed) && rowid == self.mask.load(Relaxed) {
            self.behind.load(Relaxed)
        } else {
            rowid
        }
    }

    /// The closure's `changes`, given the connection's. While the total has not moved, the closure has run no statement
    /// that changed rows, so the value is 0.
    pub(crate) fn changes(&self, changes: i64, total: i64) -> i64 {
        if self.total(total) == 0 { 0 } else { changes }
    }

    /// The closure's `total_changes`, given the connection's.
    pub(crate) fn total(&self, total: i64) -> i64 {
        total.saturating_sub(self.base.load(Relaxed))
    }

    /// Sets a mask, which detects until its drop whether a statement sets the connection's rowid.
    #[inline]
    pub(crate) fn mask<'a>(&'a self, conn: &'a Connection) -> Mask<'a> {
        let before = conn.last_insert_rowid();
        let mask = Mask {
            conn,
            counters: self,
            before,
            outer: self
                .masked
                .load(Relaxed)
                .then(|| (self.mask.load(Relaxed), self.behind.load(Relaxed))),
            mask: self.draw(),
            is_off: false,
        };
        self.behind.store(self.rowid(before), Relaxed);
        self.mask.store(mask.mask, Relaxed);
        self.masked.store(true, Relaxed);
        set_last_insert_rowid(conn, mask.mask);
        mask
    }

    /// SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
    fn draw(&self) -> i64 {
        let state = self.random.load(Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.store(state, Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).cast_signed() | i64::MIN
    }
}

/// A mask on the connection's rowid. Its drop, also by a panic, restores the rowid, unless a statement set another.
pub(crate) struct Mask<'a> {
    conn: &'a Connection,
    counters: &'a ChangeCounters,
    before: i64,
    /// The mask and rowid of the enclosing insert, if any.
    outer: Option<(i64, i64)>,
    mask: i64,
    is_off: bool,
}

impl Mask<'_> {
    /// Removes the mask. Returns the rowid that a statement set since.
    #[inline]
    pub(crate) fn end(mut self) -> Option<i64> {
        let rowid = self.take_off();
        self.is_off = true;
        rowid
    }

    #[inline]
    fn take_off(&mut self) -> Option<i64> {
        let rowid = self.conn.last_insert_rowid();
        let was_set = rowid != self.mask;
        if !was_set {
            set_last_insert_rowid(self.conn, self.before);
        }
        if let Some((mask, behind)) = self.outer {
            self.counters.mask.store(mask, Relaxed);
            self.counters.behind.store(behind, Relaxed);
        } else {
            self.counters.masked.store(false, Relaxed);
        }
        was_set.then_some(rowid)
    }
}

impl Drop for Mask<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_off {
            self.take_off();
        }
    }
}

/// SQLite's own count is signed.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
