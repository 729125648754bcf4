//! All integration tests, one binary, one module a feature. Each test's name says what holds.

mod support;

mod access;
mod alerts;
/// The reference service, for the tests inside it. Cargo would run them by itself if told so, but then it does not build
/// the program, which `service.rs` needs.
#[cfg(feature = "async")]
#[expect(dead_code, reason = "the tests inside use a part of it")]
#[path = "../examples/axum.rs"]
mod axum_example;
mod backups;
mod checking;
mod chores;
mod closing;
mod errors;
mod events;
mod fences;
mod file_changes;
mod foreign_errors;
mod forking;
mod found;
mod groups;
mod layers;
mod leftovers;
mod limits;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(all(feature = "metrics", feature = "serde"))]
mod metrics_example;
mod migration_copies;
mod migration_formats;
mod migration_live;
mod migration_outside;
mod migration_processes;
mod migration_refusals;
mod migration_steps;
mod model;
mod opening;
mod options;
mod pending;
mod poison;
mod queue;
mod reading;
mod reentrancy;
mod regressions;
mod restoring;
#[cfg(feature = "async")]
mod service;
mod statements;
mod stats;
mod subscribers;
#[cfg(feature = "async")]
mod tasks_cancel;
#[cfg(feature = "async")]
mod tasks_closing;
#[cfg(feature = "async")]
mod tasks_latest;
#[cfg(feature = "async")]
mod tasks_reads;
#[cfg(feature = "async")]
mod tasks_rude;
#[cfg(feature = "async")]
mod tasks_runtimes;
#[cfg(feature = "async")]
mod tasks_storm;
#[cfg(feature = "async")]
mod tasks_woken;
#[cfg(feature = "async")]
mod tasks_writes;
mod thread_locals;
mod trouble;
mod vacuuming;
mod wal;
