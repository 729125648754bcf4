//! Everything that is counted and measured of a store: plain data, which depends on no room that does the work.
//!
//! Each store has one [`Telemetry`], made as it opens and shared by all its parts. The comment of each field names its
//! writer. Any thread may read any field at any time.

pub(crate) mod activity;
pub(crate) mod alert;
pub(crate) mod backup_history;
pub(crate) mod bulk;
pub(crate) mod call_site;
pub(crate) mod counters;
pub(crate) mod event;
pub(crate) mod export;
pub(crate) mod external_commits;
pub(crate) mod follower;
pub(crate) mod histogram;
mod measurement;
pub(crate) mod page_cache;
mod rate_limiter;
pub(crate) mod replica;
pub(crate) mod retention;
pub(crate) mod sharded;
pub(crate) mod slow_log;
pub(crate) mod stats;
pub(crate) mod streams;
pub(crate) mod usage;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use self::activity::ActivitySlot;
use self::backup_history::BackupHistory;
use self::bulk::BulkFigures;
use self::counters::Counters;
use self::export::ExportFigures;
use self::follower::FollowerFigures;
pub use self::measurement::Measurement;
use self::page_cache::CacheTotals;
use self::replica::ReplicaFigures;
use self::retention::RetentionFigures;
use self::usage::{CallSiteTable, StatementTable};

/// All counters of one store, except those that its queues and its pool of readers keep themselves.
pub(crate) struct Telemetry {
    /// Only the holder of the writer's seat writes this, at each write, so it has its own cache lines.
    pub(crate) counters: CachePadded<Counters>,
    /// The write whose closure runs. Only the holder of the writer's seat writes this, at each write, so it has its own
    /// cache lines.
    pub(crate) writing: CachePadded<ActivitySlot>,
    /// A checkpoint beside a bulk job. Written by the thread that makes it.
    pub(crate) side_checkpoint: ActivitySlot,
    /// Usage by call site of writes. Its only shard belongs to the writing connection.
    pub(crate) write_sites: Arc<CallSiteTable>,
    /// Usage by call site of reads. Each reading connection has a shard of it.
    pub(crate) read_sites: Arc<CallSiteTable>,
    /// Usage by statement. Each connection has a shard of it.
    pub(crate) statements: Arc<StatementTable>,
    /// The page caches. Each connection adds its own numbers.
    pub(crate) cache: Arc<CacheTotals>,
    /// The last backup, and the failing schedules. Written by the thread that makes the backup.
    pub(crate) backups: BackupHistory,
    /// The bulk jobs. Written by their threads.
    pub(crate) bulk: BulkFigures,
    /// The retained tables. Written by the thread that sweeps them.
    pub(crate) retention: RetentionFigures,
    /// The replica. Written by the threads that seal and upload.
    pub(crate) replica: ReplicaFigures,
    /// The exports to PostgreSQL. Written by their threads.
    pub(crate) exports: ExportFigures,
    /// The follower. Written by the writer thread and by the task that follows.
    pub(crate) follower: FollowerFigures,
}

impl Telemetry {
    /// Counts at most `max_call_sites` call sites each for reads and writes, and at most `statements` statements.
    pub(crate) fn new(max_call_sites: usize, statements: usize) -> Self {
        Self {
            counters: CachePadded::default(),
            writing: CachePadded::default(),
            side_checkpoint: ActivitySlot::default(),
            write_sites: Arc::new(CallSiteTable::new(max_call_sites)),
            read_sites: Arc::new(CallSiteTable::new(max_call_sites)),
            statements: Arc::new(StatementTable::new(statements)),
            cache: Arc::default(),
            backups: BackupHistory::default(),
            bulk: BulkFigures::default(),
            retention: RetentionFigures::default(),
            replica: ReplicaFigures::default(),
            exports: ExportFigures::default(),
            follower: FollowerFigures::default(),
        }
    }
}
