//! All integration tests in one binary, in the folders of `src`. A test's name states its subject, condition and result.

mod backup;
mod bulk;
mod connection;
mod docs;
mod layers;
mod maintenance;
mod migrate;
mod monitor;
mod options;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
mod queue;
mod read;
mod regressions;
#[cfg(feature = "replicate")]
mod replica;
mod store;
mod support;
mod telemetry;
mod transaction;
mod write;

/// The reference service, for the tests inside it. Cargo would run them by itself if told so, but then it does not build
/// the program, which `process/service.rs` needs.
#[cfg(feature = "async")]
#[expect(dead_code, reason = "the tests inside use a part of it")]
#[path = "../../examples/axum.rs"]
mod axum_example;
