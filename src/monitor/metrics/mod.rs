//! What a store tells the [`metrics`](https://docs.rs/metrics) facade, with the feature `metrics`. This module exports nothing.
//!
//! Install a recorder before the first store is opened; there is nothing else to do. With Prometheus's it is
//! `PrometheusBuilder::new().with_recommended_naming(true).install_recorder()?`: `examples/metrics.rs` is a service that
//! does it. Every [`Options::monitor_interval`](crate::Options::monitor_interval) the store tells the recorder what
//! [`Store::stats`](crate::Store::stats) says; without a watch it tells nothing.
//!
//! Reads and writes pay nothing for it. What pays is the thread that watches, and there each value of a histogram costs as
//! much as the recorder takes for it: some 30 ns with `metrics-exporter-prometheus`, or 3 % of a core for a million a
//! second. That exporter keeps each for 16 bytes until it is scraped or its `run_upkeep` is called, which is yours to do
//! every few seconds.
//!
//! - All metrics have the label `db.namespace`: the path of the database, as [`Store::path`](crate::Store::path) has it.
//! - Names, labels and units are [OpenTelemetry's](https://opentelemetry.io/docs/specs/semconv/db/database-metrics/) for
//!   those that begin with `db.` or `error.`. What it calls an up-down counter is a gauge here. Prometheus's exporter makes
//!   underscores of points.
//! - `db.client.connection.pool.name` is the path, too. `db.client.connection.state` is `idle` or `used`, `db.operation.name`
//!   `read` or `write`, `error.type` the name of the [`Error`](crate::Error)'s variant or `panic`, and `larder.alert.kind`
//!   that of the [`AlertKind`](crate::AlertKind).
//! - `larder.site` is the label of a read or a write ([`ReadOptions::label`](crate::ReadOptions::label)), or the
//!   `file:line` that asks. There are at most [`Options::max_call_sites`](crate::Options::max_call_sites) of reads and as many of
//!   writes, and `other`; none if that is zero. Labels must not be made of data.
//! - Statements ([`Stats::statements`](crate::Stats::statements)) are not told: their text is no label.
//! - Counters and histograms begin with the first look after the recorder was installed, or with the opening of the store
//!   if that comes later. They go on if the store is closed and opened again.
//! - Values in histograms are rounded: by at most 1.6 %, and by 6.3 % in `db.client.operation.duration`.
//! - When a store closes its gauges go to zero, since they cannot be taken back, and `larder.store.open` with them. An
//!   exporter may have a time-out past which it forgets what is not told any more.
//!
//! | name | kind | unit | labels | |
//! |---|---|---|---|---|
//! | `larder.store.open` | gauge | count |  | 1 while the store is open, 0 once it is closed. |
//! | `db.client.operation.duration` | histogram | seconds | `db.system.name`, `db.operation.name`, `larder.site` | How long closures took, without what they waited for, and without a write's commit. |
//! | `larder.site.calls` | counter | count | `db.operation.name`, `larder.site` | How often a call site's closure ran. |
//! | `larder.site.errors` | counter | count | `db.operation.name`, `larder.site` | How often a call site's closure failed, or was rolled back with others. |
//! | `larder.site.time` | counter | microseconds | `db.operation.name`, `larder.site` | How long a call site's closure took, all in all. |
//! | `larder.site.rows_read` | counter | count | `db.operation.name`, `larder.site` | Rows that a call site got from queries. |
//! | `larder.site.rows_changed` | counter | count | `db.operation.name`, `larder.site` | Rows that a call site inserted, updated or deleted. |
//! | `db.client.connection.count` | gauge | count | `db.client.connection.pool.name`, `db.client.connection.state` | Connections for reads that are open. |
//! | `db.client.connection.max` | gauge | count | `db.client.connection.pool.name` | Connections for reads that there may be. |
//! | `db.client.connection.pending_requests` | gauge | count | `db.client.connection.pool.name` | Reads that tasks wait for, not yet started. |
//! | `db.client.connection.timeouts` | counter | count | `db.client.connection.pool.name` | Reads that got no connection in time. |
//! | `larder.read.waits` | counter | count |  | Reads that found no connection free at once. |
//! | `larder.read.slow` | counter | count |  | Reads that were slow. |
//! | `larder.read.queue.deepest` | gauge | count |  | The most reads that tasks have waited for at a time. |
//! | `larder.read.oldest` | gauge | seconds |  | How long the oldest read that goes on has run, 0 if none does. |
//! | `larder.write.committed` | counter | count |  | Writes that were committed. |
//! | `larder.write.failed` | counter | count | `error.type` | Writes that were rolled back, or not started, by what they failed with. |
//! | `larder.write.slow` | counter | count |  | Writes that were slow. |
//! | `larder.write.long_waits` | counter | count |  | Writes that waited for longer than 100 ms to be started. |
//! | `larder.write.running` | gauge | seconds |  | How long the write that runs now has run, 0 if none does. |
//! | `larder.write.queue.length` | gauge | count |  | Writes that are queued, or in line for the queue. |
//! | `larder.write.queue.deepest` | gauge | count |  | The most writes that were queued, or in line for the queue. |
//! | `larder.write.queue.wait` | histogram | seconds |  | How long writes waited to be started. |
//! | `larder.write.execute` | histogram | seconds |  | How long the closures of writes took. |
//! | `larder.transaction.committed` | counter | count |  | Transactions that carried the committed writes. |
//! | `larder.transaction.writes` | histogram | count |  | How many writes a transaction has carried. |
//! | `larder.transaction.begin` | histogram | seconds |  | How long BEGIN took, with other processes' locks. |
//! | `larder.transaction.commit` | histogram | seconds |  | How long COMMIT took. |
//! | `larder.wal.size` | gauge | bytes |  | Bytes of the write-ahead log in use. |
//! | `larder.wal.largest` | gauge | bytes |  | Most bytes of the write-ahead log that were in use. |
//! | `larder.checkpoint.finished` | counter | count |  | Checkpoints that moved all of the log. |
//! | `larder.checkpoint.unfinished` | counter | count |  | Checkpoints that could not move all of the log. |
//! | `larder.checkpoint.consecutive_unfinished` | gauge | count |  | Unfinished checkpoints since one has moved all of it. |
//! | `larder.checkpoint.log_pages` | gauge | count |  | Pages that were in the log at the last checkpoint. |
//! | `larder.checkpoint.moved_pages` | gauge | count |  | Those of the pages in the log that it had moved at its end. |
//! | `larder.database.size` | gauge | bytes |  | Bytes of the database, at the last checkpoint. |
//! | `larder.database.pages` | gauge | count |  | Pages of the database, at the last checkpoint. |
//! | `larder.database.free_pages` | gauge | count |  | Pages of the database that nothing was in. |
//! | `larder.database.external_commits` | counter | count |  | How often it was seen that another process had written. |
//! | `larder.cache.hits` | counter | count |  | Pages that were found in a cache. |
//! | `larder.cache.misses` | counter | count |  | Pages that had to be read from the file. |
//! | `larder.cache.written` | counter | count |  | Pages that were written. |
//! | `larder.cache.spills` | counter | count |  | Pages that were written before the commit, since the cache was full. |
//! | `larder.cache.memory` | gauge | bytes |  | Bytes that caches, schemas and prepared statements take. |
//! | `larder.alert` | gauge | count | `larder.alert.kind` | 1 while an alert lasts, otherwise 0. |

pub(crate) mod exporter;
mod table;
