//! What is counted and measured of a store: plain data, which depends on no part that does the work.
//!
//! There is one [`Telemetry`] a store, made as it opens and shared by all its parts. Each field says who writes it.
//! Everybody may read all of it at any time.

pub(crate) mod activity;
pub(crate) mod alert;
pub(crate) mod backup_history;
pub(crate) mod call_site;
pub(crate) mod counters;
pub(crate) mod event;
pub(crate) mod histogram;
mod measurement;
pub(crate) mod page_cache;
mod rate_limiter;
pub(crate) mod sharded;
pub(crate) mod slow_log;
pub(crate) mod stats;
pub(crate) mod usage;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use self::activity::ActivitySlot;
use self::backup_history::BackupHistory;
use self::counters::Counters;
pub use self::measurement::Measurement;
use self::page_cache::CacheTotals;
use self::usage::{CallSiteTable, StatementTable};

/// Everything that is counted of one store, but for what its queues and its pool of readers count of themselves.
pub(crate) struct Telemetry {
    /// Written by the writer thread alone, at each write, so it has cache lines of its own.
    pub(crate) counters: CachePadded<Counters>,
    /// The write whose closure runs. Written by the writer thread alone, at each write, so it has cache lines of its
    /// own.
    pub(crate) writing: CachePadded<ActivitySlot>,
    /// The cost of writes by call site. The writing connection has the only shard of it.
    pub(crate) write_sites: Arc<CallSiteTable>,
    /// The cost of reads by call site. Each reading connection has a shard of it.
    pub(crate) read_sites: Arc<CallSiteTable>,
    /// The cost of statements. Each connection has a shard of it.
    pub(crate) statements: Arc<StatementTable>,
    /// The page caches. Each connection adds its own figures.
    pub(crate) cache: Arc<CacheTotals>,
    /// The last backup, and the schedules that fail. Written by the thread that makes the backup.
    pub(crate) backups: BackupHistory,
}

impl Telemetry {
    /// With at most so many call sites, of reads and of writes each, and so many statements.
    pub(crate) fn new(max_call_sites: usize, statements: usize) -> Self {
        Self {
            counters: CachePadded::default(),
            writing: CachePadded::default(),
            write_sites: Arc::new(CallSiteTable::new(max_call_sites)),
            read_sites: Arc::new(CallSiteTable::new(max_call_sites)),
            statements: Arc::new(StatementTable::new(statements)),
            cache: Arc::default(),
            backups: BackupHistory::default(),
        }
    }
}
