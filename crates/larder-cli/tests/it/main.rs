//! Runs the binary as its users do: real files, other processes, signals.

mod bad_input;
mod beside;
mod checks;
mod copies;
mod imports;
mod interrupts;
mod migrations;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "replicate")]
mod replicas;
mod sql;
#[path = "../../../../tests/it/support/stalls.rs"]
mod stalls;
mod streams;
mod support;
mod terminal;
