//! All integration tests, one binary, the modules as those of `src`. Each test's name says what holds.

mod backup;
mod connection;
mod layers;
mod maintenance;
mod migrate;
mod monitor;
mod options;
mod process;
mod queue;
mod read;
mod regressions;
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
