//! The metrics that a store exports through the [`metrics`](https://docs.rs/metrics) facade, with the feature
//! `metrics`. This module exports no items.
//!
//! Install a recorder before the first store is opened; nothing else is needed. For Prometheus it is
//! `PrometheusBuilder::new().with_recommended_naming(true).install_recorder()?`; `examples/metrics.rs` is a service
//! that does so. Every [`Options::monitor_interval`](crate::Options::monitor_interval), the store copies
//! [`Store::stats`](crate::Store::stats) to the recorder. If the interval is zero, it exports nothing.
//!
//! Exporting costs reads and writes nothing. It costs the monitor thread time: each value of a histogram takes as long
//! as the recorder needs for it, some 30 ns with `metrics-exporter-prometheus`, or 3 % of a core for a million values a
//! second. That exporter keeps each value in 16 bytes until it is scraped or until your code calls its `run_upkeep`,
//! which it should do every few seconds.
//!
//! - All metrics have the label `db.namespace`: the path of the database, as in [`Store::path`](crate::Store::path).
//! - Names, labels and units that begin with `db.` or `error.` are
//!   [OpenTelemetry's](https://opentelemetry.io/docs/specs/semconv/db/database-metrics/). An up-down counter of
//!   OpenTelemetry is a gauge here. The Prometheus exporter replaces dots by underscores.
//! - `db.client.connection.pool.name` is the path too. `db.client.connection.state` is `idle` or `used`.
//!   `db.operation.name` is `read` or `write`. `error.type` is a key of
//!   [`Stats::failures_by_error`](crate::Stats::failures_by_error); the errors that writes can fail with are exported
//!   from the start, as 0. `larder.alert.kind` is the name of the [`AlertKind`](crate::AlertKind).
//! - `larder.site` is the label of a read or write ([`ReadOptions::label`](crate::ReadOptions::label)), or the
//!   `file:line` of the call. There are at most [`Options::max_call_sites`](crate::Options::max_call_sites) call sites
//!   of reads, as many of writes, and `other`; none if the option is zero. Do not put data into labels.
//! - Statements ([`Stats::statements`](crate::Stats::statements)) are not exported, because SQL text is no label.
//! - Counters and histograms start at the first export after the recorder was installed, or at the opening of the store
//!   if that is later. They continue if the store is closed and opened again.
//! - Values in histograms are rounded: by at most 1.6 %, and by at most 6.3 % in `db.client.operation.duration`.
//! - When a store closes, its gauges, including `larder.store.open`, are set to zero, because they cannot be removed.
//!   An exporter may forget them after an idle timeout.
//!
//! | name | kind | unit | labels | |
//! |---|---|---|---|---|
//! | `larder.store.open` | gauge | count |  | 1 while the store is open, 0 after it is closed. |
//! | `db.client.operation.duration` | histogram | seconds | `db.system.name`, `db.operation.name`, `larder.site` | Run time of closures, without queue wait and without the commit of a write. |
//! | `larder.site.calls` | counter | count | `db.operation.name`, `larder.site` | Number of runs of the closure of a call site. |
//! | `larder.site.errors` | counter | count | `db.operation.name`, `larder.site` | Number of runs that failed, or were rolled back with their group. |
//! | `larder.site.time` | counter | microseconds | `db.operation.name`, `larder.site` | Total run time of the closure of a call site. |
//! | `larder.site.rows_read` | counter | count | `db.operation.name`, `larder.site` | Number of rows that the queries of a call site returned. |
//! | `larder.site.rows_changed` | counter | count | `db.operation.name`, `larder.site` | Number of rows that a call site inserted, updated or deleted. |
//! | `db.client.connection.count` | gauge | count | `db.client.connection.pool.name`, `db.client.connection.state` | Number of open reading connections. |
//! | `db.client.connection.max` | gauge | count | `db.client.connection.pool.name` | Maximum number of reading connections. |
//! | `db.client.connection.pending_requests` | gauge | count | `db.client.connection.pool.name` | Number of async reads and streams that wait to start. |
//! | `db.client.connection.timeouts` | counter | count | `db.client.connection.pool.name` | Number of reads that got no connection in time. |
//! | `larder.read.refused` | counter | count |  | Number of reads that found no connection or a full queue, and did not wait. |
//! | `larder.read.waits` | counter | count |  | Number of reads that found no idle connection. |
//! | `larder.read.slow` | counter | count |  | Number of slow reads. |
//! | `larder.read.queue.deepest` | gauge | count |  | High-water mark of async reads, or of streams, that waited to start. |
//! | `larder.read.oldest` | gauge | seconds |  | Age of the oldest running read; 0 if there is none. |
//! | `larder.stream.open` | gauge | count |  | Number of streams that have begun and not ended. |
//! | `larder.stream.begun` | counter | count |  | Number of streams that have begun. |
//! | `larder.stream.rows` | counter | count |  | Number of rows that the consumers of streams have taken. |
//! | `larder.stream.consumer_wait` | counter | microseconds |  | Time that streams waited for their consumers. |
//! | `larder.stream.idle_timeouts` | counter | count |  | Number of streams that were ended because their consumer was idle. |
//! | `larder.write.committed` | counter | count |  | Number of committed writes. |
//! | `larder.write.failed` | counter | count | `error.type` | Number of writes that were rolled back or did not start, by error. |
//! | `larder.write.slow` | counter | count |  | Number of slow writes. |
//! | `larder.write.long_waits` | counter | count |  | Number of writes that waited longer than 100 ms to start. |
//! | `larder.write.running` | gauge | seconds |  | Age of the running write; 0 if there is none. |
//! | `larder.write.queue.length` | gauge | count |  | Number of writes in the queue or in line for it. |
//! | `larder.write.queue.deepest` | gauge | count |  | High-water mark of writes in the queue or in line for it. |
//! | `larder.write.queue.wait` | histogram | seconds |  | Time that writes waited to start. |
//! | `larder.write.execute` | histogram | seconds |  | Run time of the closures of writes. |
//! | `larder.transaction.committed` | counter | count |  | Number of transactions that committed at least one write. |
//! | `larder.transaction.writes` | histogram | count |  | Number of writes in each transaction. |
//! | `larder.transaction.begin` | histogram | seconds |  | Duration of BEGIN, including the wait for locks of other processes. |
//! | `larder.transaction.commit` | histogram | seconds |  | Duration of COMMIT. |
//! | `larder.bulk.jobs` | gauge | count |  | Number of bulk jobs that run; a sweep of a retention is one. |
//! | `larder.bulk.rows` | counter | count |  | Number of rows that bulk jobs have committed. |
//! | `larder.bulk.share` | gauge | count |  | Part of the time for which the running bulk jobs had the writer thread, from 0 to 1. |
//! | `larder.export.running` | gauge | count |  | Number of exports to PostgreSQL that run, dry runs too. |
//! | `larder.export.rows` | counter | count |  | Number of rows that exports have committed at their servers. |
//! | `larder.retention.rows` | counter | count |  | Number of old rows that retentions have deleted. |
//! | `larder.retention.last_sweep` | gauge | seconds |  | Time of the last sweep that left no old rows, in seconds since 1970, of the retention where it is longest ago; 0 before the first. |
//! | `larder.retention.failures` | gauge | count |  | Number of sweeps that failed since the last one that succeeded, of the retention that has most. |
//! | `larder.wal.size` | gauge | bytes |  | Number of bytes in use in the WAL. |
//! | `larder.wal.largest` | gauge | bytes |  | High-water mark of the bytes in use in the WAL. |
//! | `larder.checkpoint.finished` | counter | count |  | Number of checkpoints that moved the whole WAL. |
//! | `larder.checkpoint.unfinished` | counter | count |  | Number of checkpoints that moved only a part of the WAL. |
//! | `larder.checkpoint.consecutive_unfinished` | gauge | count |  | Number of unfinished checkpoints since one moved the whole WAL. |
//! | `larder.checkpoint.log_pages` | gauge | count |  | Number of pages in the WAL at the last checkpoint. |
//! | `larder.checkpoint.moved_pages` | gauge | count |  | Number of these pages that were in the database file after it. |
//! | `larder.database.size` | gauge | bytes |  | Size of the database. |
//! | `larder.database.pages` | gauge | count |  | Number of pages of the database. |
//! | `larder.database.free_pages` | gauge | count |  | Number of free pages of the database at the last checkpoint. |
//! | `larder.database.external_commits` | counter | count |  | Number of commits of other processes. |
//! | `larder.cache.hits` | counter | count |  | Number of pages found in a page cache. |
//! | `larder.cache.misses` | counter | count |  | Number of pages read from the file. |
//! | `larder.cache.written` | counter | count |  | Number of pages written. |
//! | `larder.cache.spills` | counter | count |  | Number of pages written before the commit because the cache was full. |
//! | `larder.cache.memory` | gauge | bytes |  | Memory that caches, schemas and prepared statements use. |
//! | `larder.replica.behind` | gauge | seconds |  | Age of the oldest capture that is not in the replica. |
//! | `larder.replica.uploaded` | gauge | count |  | Number of the last transaction in the replica. |
//! | `larder.replica.spool` | gauge | bytes |  | Number of bytes that wait to be uploaded or, after that, to be merged. |
//! | `larder.replica.uploads` | counter | count |  | Number of files that were uploaded to the replica. |
//! | `larder.replica.upload_size` | counter | bytes |  | Number of bytes in these files. |
//! | `larder.replica.upload_errors` | counter | count |  | Number of uploads that failed and were tried again. |
//! | `larder.replica.rebases` | counter | count |  | Number of times that the whole database had to be captured once more. |
//! | `larder.replica.last_verified` | gauge | seconds |  | Time of the last verification of the replica, in seconds since 1970; 0 before the first. |
//! | `larder.replica.last_snapshot` | gauge | seconds |  | Time of the newest snapshot in the replica, in seconds since 1970; 0 if there is none. |
//! | `larder.follower.behind` | gauge | seconds |  | Time since a follower was known to have all that was in the replica. |
//! | `larder.follower.applied` | gauge | count |  | Number of the last transaction of the replica that was applied. |
//! | `larder.follower.pages` | counter | count |  | Number of pages that a follower wrote for the replica's transactions. |
//! | `larder.follower.resyncs` | counter | count |  | Number of times that a follower's database was compared with the newest state. |
//! | `larder.alert` | gauge | count | `larder.alert.kind` | 1 while an alert is active, otherwise 0. |

pub(crate) mod exporter;
mod table;
