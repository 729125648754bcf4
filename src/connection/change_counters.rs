//! `last_insert_rowid`, `changes` and `total_changes` as one closure is to see them.
//!
//! SQLite keeps all three for the connection, which many closures share. A closure is to find them as on a fresh
//! connection: 0 until it has changed something itself. The rowid is set to 0 before each closure. The other two cannot be
//! set, so [`ChangeCounters`] remembers where the total stood, and the SQL functions (`c_api::define_change_functions`)
//! and the methods of `WriteTx` subtract it.
//!
//! SQLite says nowhere whether a statement has inserted a row that has a rowid: `last_insert_rowid` stays as it was if it
//! has not, and may be set to the same value again if it has. So before an `INSERT` whose rowid is asked for, the
//! connection's rowid is set to a number drawn at random from 2^63 negative ones, and one that is still there afterwards
//! was not set. Meanwhile the SQL function says what was there before: the statement itself, a trigger or a column's
//! DEFAULT may ask for it.
//!
//! Only the thread that has the connection uses it; the atomics are there since SQL functions may be called from any
//! thread as far as the compiler knows.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use rusqlite::Connection;

use super::c_api::set_last_insert_rowid;

pub(crate) struct ChangeCounters {
    /// `total_changes` of the connection as the closure began.
    base: AtomicI64,
    masked: AtomicBool,
    /// The connection's rowid while `masked`, unless a statement has set another, and what it stands for.
    mask: AtomicI64,
    behind: AtomicI64,
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

    /// Before each closure. Gives the connection's `total_changes`.
    pub(crate) fn restart(&self, conn: &Connection) -> u64 {
        set_last_insert_rowid(conn, 0);
        let total = conn.total_changes();
        self.base.store(signed(total), Relaxed);
        total
    }

    /// What `last_insert_rowid` is to say if the connection says that.
    pub(crate) fn rowid(&self, rowid: i64) -> i64 {
        if self.masked.load(Relaxed) && rowid == self.mask.load(Relaxed) {
            self.behind.load(Relaxed)
        } else {
            rowid
        }
    }

    /// What `changes` is to say if the connection says that. As long as the total stands where it stood, each statement of
    /// the closure that changes rows has changed none, or there was none.
    pub(crate) fn changes(&self, changes: i64, total: i64) -> i64 {
        if self.total(total) == 0 { 0 } else { changes }
    }

    /// What `total_changes` is to say if the connection says that.
    pub(crate) fn total(&self, total: i64) -> i64 {
        total.saturating_sub(self.base.load(Relaxed))
    }

    /// Until the drop, the mask knows whether a statement has set the connection's rowid.
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

/// The connection's rowid is hidden. Dropped, also by a panic, it is there again, unless a statement has set another.
pub(crate) struct Mask<'a> {
    conn: &'a Connection,
    counters: &'a ChangeCounters,
    before: i64,
    /// An insert that this one is inside of.
    outer: Option<(i64, i64)>,
    mask: i64,
    is_off: bool,
}

impl Mask<'_> {
    /// Takes the mask off. What a statement has set since.
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
